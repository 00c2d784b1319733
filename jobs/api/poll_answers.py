"""What the database says of a round of status polls: who is surely to be shown what, and each job as JSON.

Nothing but bodies is remembered, by the job's version: whether somebody may see one is asked anew each time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.utils import timezone
from rest_framework.renderers import JSONRenderer

from jobs import artifact_urls
from jobs.api.etags import is_among, job_etag
from jobs.estimates import with_estimates
from jobs.models import Job
from jobs.representation import single_job_as_dict
from jobs.sql import polls
from jobs.sql.polls import Sight

MOST_BODIES_BYTES = 32 * 1024 * 1024
ESTIMATES_KEPT_SECONDS = 1.0
"""How old estimates in a remembered body may become: as long as `Retry-After` asks to wait."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A poll that may be answered here."""

    digest: str
    """Of its token."""
    job_id: UUID
    known: tuple[str, ...]
    """The tags of `If-None-Match`."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is surely the answer."""

    etag: str
    is_final: bool
    body: bytes | None
    """None for 304."""


class Bodies:
    """Answers rounds of questions, in a thread of its own; remembers bodies."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[UUID, Body] = OrderedDict()
        self._bytes = 0

    def answer(self, questions: Sequence[Question]) -> list[Found | None]:
        """Answer questions by what the database says now; None where the view has to."""
        polls.keep_plans()
        seen = polls.sights({(each.digest, each.job_id) for each in questions}, timezone.now())
        asked = [(each, seen.get((each.digest, each.job_id))) for each in questions]
        known = [sight is not None and is_among(job_etag(sight.version), each.known) for each, sight in asked]
        wanted = {
            each.job_id: sight.version
            for (each, sight), is_known in zip(asked, known, strict=True)
            if sight and not is_known
        }
        bodies = self._of_versions(wanted)
        return [
            found_of(sight, is_known, bodies.get(each.job_id))
            for (each, sight), is_known in zip(asked, known, strict=True)
        ]

    def _of_versions(self, wanted: Mapping[UUID, int]) -> Mapping[UUID, Body]:
        """Give the bodies of jobs at these versions, or at newer ones; those that aren't remembered are made."""
        now, window = time.monotonic(), artifact_urls.window()
        bodies: dict[UUID, Body] = {}
        for job_id, version in wanted.items():
            body = self._bodies.get(job_id)
            if body and body.version == version and body.window == window and now < body.good_until:
                self._bodies.move_to_end(job_id)
                bodies[job_id] = body
        if missing := wanted.keys() - bodies.keys():
            jobs = polls.jobs_by_id(missing)
            files = polls.files_of(jobs.values())
            for job in jobs.values():
                shown = with_estimates(job, single_job_as_dict(job, files[job.id]))
                bodies[job.id] = body = Body(
                    version=job.version,
                    is_final=job.is_final,
                    window=window,
                    content=JSONRenderer().render(shown),
                    good_until=float("inf") if job.is_final else now + ESTIMATES_KEPT_SECONDS,
                )
                self._remember(job, body)
        return bodies

    def _remember(self, job: Job, body: Body) -> None:
        if (old := self._bodies.pop(job.id, None)) is not None:
            self._bytes -= len(old.content)
        self._bodies[job.id] = body
        self._bytes += len(body.content)
        while self._bytes > MOST_BODIES_BYTES:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped.content)


@dataclass(frozen=True, kw_only=True)
class Body:
    """A job as JSON, at one version."""

    version: int
    is_final: bool
    window: int
    """Of its signed URLs."""
    content: bytes
    good_until: float
    """On the monotonic clock, for the sake of its estimates."""


def found_of(sight: Sight | None, is_known: bool, body: Body | None) -> Found | None:
    """Say what is surely the answer to a question; None where the view has to.

    Args:
        sight: what its asker may see.
        is_known: whether the asker has that state.
        body: the job as JSON, if it was read; it may have been removed meanwhile.
    """
    if sight and is_known:
        return Found(etag=job_etag(sight.version), is_final=sight.is_final, body=None)
    if sight and body:
        return Found(etag=job_etag(body.version), is_final=body.is_final, body=body.content)
    return None
