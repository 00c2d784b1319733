"""What may stand beside the jobs that are claimed. Each shape is a crowd of copies, as large as asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from benchmarks.backlog import submit
from benchmarks.claims.copies import copy, empty_tables, settle

if TYPE_CHECKING:  # at run time only once Django is set up
    from jobs.context import Context

LINE = 1_000
"""Due jobs that stand in line beside a crowd of which nothing can be claimed."""
USERS = 1_000
MOST_RUNNING = 64
"""Two hands."""
NOOP, LIMITED, PAUSED = "bench.noop", "bench.limited", "bench.paused"
PAUSED_QUEUE = "bench_paused"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A crowd, and which jobs are claimed and submitted beside it."""

    name: str
    template: Callable[[int], UUID]
    """Makes the job of which the crowd are copies; gets its owner."""
    own: Mapping[str, str] = field(default_factory=dict)
    """SQL by column where a copy differs, made of its number `n`."""
    kind: str = NOOP
    """Of the jobs that are claimed and submitted."""
    line: int = 0
    """How many of these stand in line already when the crowd comes."""
    owners: Sequence[int]
    """Whose the jobs are, in turn; the ids follow one another."""
    is_paused: bool = False
    """Whether a claim must find nothing."""

    @property
    def owner_id(self) -> int:
        return self.owners[0]


def pending_shapes(owners: Sequence[int]) -> Sequence[Shape]:
    """List the crowds of pending jobs, the plainest first.

    Args:
        owners: `USERS` users.
    """
    one = owners[:1]
    takes_turns = {"owner_id": f"{owners[0]} + n %% {len(owners)}", "turn": f"n / {len(owners)}"}
    return (
        Shape(name="in line, of one user", owners=one, template=_accepted(NOOP)),
        Shape(name=f"in line, of {len(owners):,} users", owners=owners, template=_accepted(NOOP), own=takes_turns),
        Shape(
            name=f"at the gate of their kind (max_running {MOST_RUNNING}), which is claimed",
            owners=one,
            template=_accepted(LIMITED),
            kind=LIMITED,
            line=MOST_RUNNING,
        ),
        Shape(
            name="in a paused queue, which is claimed",
            owners=one,
            template=_accepted(PAUSED),
            kind=PAUSED,
            is_paused=True,
        ),
        Shape(name=f"in a paused queue, {LINE:,} beside", owners=one, template=_accepted(PAUSED), line=LINE),
        Shape(name=f"scheduled in a year, {LINE:,} beside", owners=one, template=_scheduled, line=LINE),
    )


def finished_shape(owners: Sequence[int]) -> Shape:
    """Give the crowd of finished jobs, with some in line beside."""
    return Shape(name=f"finished, {LINE:,} in line beside", owners=owners[:1], template=finished, line=LINE)


def declare_kinds() -> None:
    """Declare kinds that only this process knows: no worker of Kabar's runs beside it."""
    from jobs.kinds import kind

    def noop(context: Context, params: dict[str, Any]) -> None:
        """Do nothing."""

    kind(LIMITED, max_running=MOST_RUNNING)(noop)
    kind(PAUSED, queue=PAUSED_QUEUE)(noop)


def new_users() -> Sequence[int]:
    """Make `USERS` users whose ids follow one another."""
    from django.contrib.auth import get_user_model

    model = get_user_model()
    model.objects.bulk_create(model(username=f"benchmark{number}") for number in range(USERS))
    ids = sorted(model.objects.values_list("pk", flat=True))
    assert ids == list(range(ids[0], ids[0] + USERS))
    return ids


def begin(shape: Shape) -> UUID:
    """Empty the tables and put the line there, without the crowd; gives its template."""
    from jobs import queues

    empty_tables()
    queues.pause(PAUSED_QUEUE, by="benchmark")
    if shape.line:
        submit(shape.kind, shape.line, shape.owner_id)
    return shape.template(shape.owner_id)


def grow(shape: Shape, template: UUID, present: int, count: int) -> None:
    """Have a crowd of `present` jobs, the template among them, grow to `count`.

    Copies have no events: no claim reads any.
    """
    copy(template, present, count - present, own=shape.own, with_events=False)
    settle()


def finished(owner_id: int) -> UUID:
    """Have a job done, with its whole log."""
    from jobs import lifecycle
    from jobs.kinds import get_kind
    from jobs.lifecycle import Outcome, Submission

    urgent = Submission(kind=get_kind(NOOP), owner_id=owner_id, priority=100)
    (accepted,) = lifecycle.accept([urgent])
    (job,) = lifecycle.claim(get_kind(NOOP).queue, uuid4())
    assert job.pk == accepted.pk
    lifecycle.finish([Outcome(job=job)])
    return job.pk


def _accepted(kind: str) -> Callable[[int], UUID]:
    def template(owner_id: int) -> UUID:
        (job_id,) = submit(kind, 1, owner_id)
        return job_id

    return template


def _scheduled(owner_id: int) -> UUID:
    from django.utils import timezone

    from jobs import lifecycle
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    run_at = timezone.now() + timedelta(days=365)
    (job,) = lifecycle.accept([Submission(kind=get_kind(NOOP), owner_id=owner_id, run_at=run_at)])
    return job.pk
