"""Small makers of what tests need."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from django.contrib.auth import get_user_model

from jobs import lifecycle
from jobs.kinds import get_kind
from jobs.lifecycle import Outcome, Submission
from jobs.models import Job, Status

if TYPE_CHECKING:
    from django.contrib.auth.models import User

_numbers = count(1)
WORKER = UUID("00000000-0000-4000-8000-000000000001")


def new_user(**values: Any) -> User:
    """Make a user with a name of its own."""
    user: User = get_user_model().objects.create_user(username=f"user{next(_numbers)}", **values)
    return user


def new_job(owner: User | None = None, kind: str = "demo.countdown", **values: Any) -> Job:
    """Have a job accepted."""
    owner = owner or new_user()
    params = values.pop("params", {"seconds": 0, "steps": 1, "failures": 0})
    return lifecycle.accept([Submission(kind=get_kind(kind), owner_id=owner.pk, params=params, **values)])[0]


def claimed_job(owner: User | None = None, worker: UUID | None = None, **values: Any) -> Job:
    """Have a job accepted and claimed; it must be the only one that is due."""
    job = new_job(owner, **values)
    (claimed,) = lifecycle.claim("default", worker or uuid4())
    assert claimed.pk == job.pk
    return claimed


def played(job: Job, **values: Any) -> Outcome:
    """Have the handler of a job in hand run to its end, as a worker does, but without a handler."""
    began_at = time.monotonic()
    begun = lifecycle.foresee_begin(job) if job.status == Status.PENDING else None
    return Outcome(job=job, begun=begun, began_at=began_at, **values)
