"""Workers work: claim, begin, beat, finish, retry, release.

Short jobs go by the handful (`docs/decisions/hand.md`). The first job of a hand is claimed as running; the others are
*reserved*: they have worker, fence and lease, but are pending still and nothing is told of them. Their begin is written
together with their end, or by `begin` where their handler turns out to take long; whatever hasn't begun can be given
back as if it had never been taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from jobs import doorbell, log, metrics, wakeup
from jobs.failures import RetryAfter
from jobs.kinds import kind_names
from jobs.lifecycle.transitions import (
    CANCELLED,
    COMPLETED,
    FAILED,
    LEASE_SECONDS,
    PENDING,
    RUNNING,
    Told,
    after_moves,
    append,
    backoff_seconds,
    check,
    ending,
    move,
    retention_of,
    ring_on_commit,
    tell,
)
from jobs.models import EventType, Job, Status
from jobs.representation import changing_state
from jobs.sql import statements
from jobs.sql.rows import jobs_of
from jobs.sql.statements import Renewal, Settled, Settlement, Want

# --- Claim, and the trade of what is done for what is next ------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Outcome:
    """How an attempt ended, as its worker saw it; moments are on this process's monotonic clock."""

    job: Job
    """As it stood when its handler began."""
    begun: dict[str, Any] | None = None
    """What `foresee_begin` gave, where the begin is still to be told; else None."""
    began_at: float = 0.0
    ended_at: float = field(default_factory=time.monotonic)
    result: Any = None
    error: dict[str, Any] | None = None
    """`{code, message}`; None where it went well."""
    traceback: str = ""
    retry: bool = True
    """Whether another attempt could go better."""
    retry_after: float | None = None
    """Seconds until the next attempt; None lets the pause grow with each failure."""
    is_cancelled: bool = False
    progress: dict[str, Any] | None = None
    version: int = 0
    """The newest version that was pushed with this progress."""


@dataclass(frozen=True, kw_only=True)
class Traded:
    """What came of a trade."""

    ended: set[UUID]
    """The jobs whose ends are written; those that are missing were fenced off."""
    claimed: list[Job]


def trade(outcomes: Sequence[Outcome], want: Want | None) -> Traded:
    """Write ends down and claim the next hand, in one transaction.

    Ends are completed, failed or cancelled for good, or a retry where another attempt follows; a job whose cancelling
    was asked for isn't tried again.

    Args:
        outcomes: attempts of this worker that have ended.
        want: what it asks for; None where it claims no more.
    """
    settlements = statements().written([_settlement(each) for each in outcomes])
    by_id = {each.job.id: each for each in outcomes}
    with transaction.atomic():
        exchanged = statements().exchange(settlements, want)
        told = [_told(by_id[each.id], each) for each in exchanged.settled]
        begun = jobs_of(exchanged.claimed[: bool(want and want.begins)])
        tell(told + [Told(job=job, first=job.sequence) for job in begun])
        after_moves(each.job for each in told)
        if want and exchanged.is_more_held:
            doorbell.ring_on_commit(want.queue)
    ended = [by_id[each.id] for each in exchanged.settled]
    metrics.count_trade(ended, begun, want.queue if want else None, exchanged.waits)
    claimed = begun + jobs_of(exchanged.claimed[len(begun) :])
    return Traded(ended={each.id for each in exchanged.settled}, claimed=claimed)


def claim(queue: str, worker: UUID, count: int = 1, quick_kinds: Sequence[str] = ()) -> list[Job]:
    """Give due jobs of a queue to a worker, most urgent first.

    Args:
        queue: a Celery queue's name.
        worker: the id of the worker's process.
        count: most jobs.
        quick_kinds: kinds whose jobs may lie in a hand; any other's is claimed alone.

    Returns:
        A hand of jobs: the first runs, the others are reserved.
    """
    return trade([], wanted(queue, worker, count, quick_kinds)).claimed


def wanted(queue: str, worker: UUID, count: int, quick_kinds: Sequence[str], *, begins: bool = True) -> Want:
    """Say what a worker asks for; the arguments are those of `claim`.

    Args:
        begins: whether the first of the hand begins at once; else all are reserved, and jobs that have to be claimed
            alone aren't given.
    """
    return Want(
        queue=queue,
        worker=worker,
        kinds=kind_names(),
        quick_kinds=quick_kinds,
        count=count,
        begins=begins,
        lease_seconds=LEASE_SECONDS,
    )


def finish(outcomes: Sequence[Outcome]) -> set[UUID]:
    """Write ends down; gives the ids of the jobs that were still the worker's."""
    return trade(outcomes, None).ended


def _settlement(outcome: Outcome) -> Settlement:
    job, status = outcome.job, _end_of(outcome)
    return Settlement(
        job=job,
        status=status,
        begun=outcome.begun,
        began_at=outcome.began_at,
        ended_at=outcome.ended_at,
        result=outcome.result if status == COMPLETED else None,
        error=outcome.error and outcome.error | {"attempt": job.attempt},
        traceback=outcome.traceback,
        failed=int(outcome.error is not None),
        progress=outcome.progress,
        version=outcome.version,
        delay_seconds=_pause_after(outcome),
        retention_seconds=retention_of(job).total_seconds(),
    )


def _pause_after(outcome: Outcome) -> float:
    """Say how many seconds later the next attempt follows; what is no time that may be asked for is passed over."""
    asked = outcome.retry_after
    if asked is not None and 0 <= asked <= RetryAfter.LONGEST_SECONDS:
        return asked
    return backoff_seconds(outcome.job.failures + 1)


def _end_of(outcome: Outcome) -> Status:
    if outcome.is_cancelled:
        return CANCELLED
    if outcome.error is None:
        return COMPLETED
    another_follows = outcome.retry and outcome.job.failures + 1 + outcome.job.crashes < outcome.job.max_attempts
    return PENDING if another_follows else FAILED


def _told(outcome: Outcome, settled: Settled) -> Told:
    check("retry" if settled.status == PENDING else "finish", settled.status)
    job = outcome.job
    job.status, job.sequence = settled.status, settled.sequence
    return Told(job=job, first=settled.sequence - (outcome.begun is not None))


def has_ended(job: Job) -> bool:
    """Tell whether the end of this very attempt stands in the row: only its own worker may have written it.

    So it is known again what a connection that broke at COMMIT has hidden.
    """
    return Job.objects.filter(pk=job.pk, fence=job.fence, worker__isnull=True, crashes=job.crashes).exists()


# --- The begin of a reserved job --------------------------------------------------------------------------------------


def foresee_begin(job: Job) -> dict[str, Any]:
    """Have a reserved job stand as it will once its begin is told, and give what the event of it will say."""
    job.status, job.started_at, job.progress = RUNNING, timezone.now(), None
    job.attempt, job.sequence, job.version = job.attempt + 1, job.sequence + 1, job.version + 1
    return changing_state(job)


def begin(job: Job, began_at: float) -> bool:
    """Tell of a reserved job whose handler runs that it has begun.

    Args:
        job: after `foresee_begin`.
        began_at: when its handler began, on this process's monotonic clock.

    Returns:
        Whether it was still the worker's.
    """
    with transaction.atomic():
        standing = _held(job)
        if standing is None:
            return False
        if standing.status == RUNNING:  # it was written before, by a commit that seemed to fail
            return True
        at = statements().now() - timedelta(seconds=time.monotonic() - began_at)
        begin_reserved(standing, at)
    return True


def begin_reserved(standing: Job, at: datetime) -> Job:
    """Have a locked reserved job begin."""
    changes = {
        "started_at": at,
        "progress": None,
        "attempt": standing.attempt + 1,
        "ready_at": None,
        "alone": True,  # it runs on, so whatever was in hand with it is given back
        "lease_until": statements().now() + timedelta(seconds=LEASE_SECONDS),
    }
    return move("begin", standing, RUNNING, at, changes, event=EventType.STARTED)


def give_back(jobs: Sequence[Job]) -> int:
    """Free reserved jobs, which never left their place in line: nothing has begun, so nothing is told.

    Returns:
        How many were still the worker's.
    """
    with transaction.atomic():
        freed = [
            job
            for job in jobs
            if Job.objects.filter(pk=job.pk, status=PENDING, fence=job.fence, worker__isnull=False).update(
                worker=None, lease_until=None
            )
        ]
        ring_on_commit(freed)
    return len(freed)


def stand_alone(job: Job) -> None:
    """Note that a running job has no more company in its hand."""
    Job.objects.filter(pk=job.pk, status=RUNNING, fence=job.fence).update(alone=True)


def _held(job: Job) -> Job | None:
    """Lock a job's row if it is still in the hand that claimed it."""
    return Job.objects.select_for_update().filter(pk=job.pk, fence=job.fence, worker__isnull=False).first()


# --- Beat -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life of one running job, with what its handler said since the last one."""

    job: Job
    """As it was claimed."""
    progress: dict[str, Any] | None = None
    version: int = 0
    """The newest version that was pushed with this progress."""
    lines: Sequence[dict[str, Any]] = ()
    """Log lines `{level, message}`, oldest first."""
    moments: Sequence[datetime] = ()
    """When each line was written."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """The answer to a beat: the job is still the worker's."""

    version: int
    sequence: int
    is_cancelled: bool


def beat(beats: Sequence[Beat]) -> dict[UUID, Held]:
    """Renew the leases of running jobs and write their progress and log lines down, all in one statement.

    Returns:
        What was renewed, by id; jobs that are missing were lost.
    """
    by_id = {each.job.id: each for each in beats}
    renewals = [
        Renewal(
            id=each.job.id,
            fence=each.job.fence,
            progress=each.progress,
            version=each.version,
            lines=len(each.lines),
        )
        for each in beats
    ]
    with transaction.atomic():
        renewed = statements().beat(renewals, LEASE_SECONDS)
        spoke = [each.id for each in renewed if by_id[each.id].lines]
        # Read again only where an event has to say how the job stands.
        standing = Job.objects.in_bulk(spoke) if spoke else {}
        lines: list[log.Line] = []
        for pk in spoke:
            lines += _lines(by_id[pk], standing[pk])
        append(lines)
        changed = [str(each.id) for each in renewed if by_id[each.id].progress is not None]
        if changed:
            transaction.on_commit(lambda: wakeup.tell_changed(changed))
    return {
        each.id: Held(version=each.version, sequence=each.sequence, is_cancelled=each.is_cancelled) for each in renewed
    }


def _lines(spoken: Beat, job: Job) -> list[log.Line]:
    first = job.sequence - len(spoken.lines) + 1
    return [
        log.Line(job=job, type=EventType.LOG, at=at, sequence=first + place, extra={"log": line})
        for place, (line, at) in enumerate(zip(spoken.lines, spoken.moments, strict=True))
    ]


# --- Release ----------------------------------------------------------------------------------------------------------


def release(job: Job) -> bool:
    """Put a running job back whose worker has to stop: another takes it at once, and nothing is counted against it.

    The attempt counts as not begun, so that a job with one attempt still has it.

    Returns:
        Whether it was still the worker's.
    """
    with transaction.atomic():
        standing = _held(job)
        if standing is None or standing.status != RUNNING:
            return False
        after_moves([put_back(standing, "release", statements().now())])
    return True


def put_back(job: Job, transition: str, now: datetime, **changes: Any) -> Job:
    """Have a locked running job wait again as if this attempt had not begun; one to be cancelled ends instead."""
    if job.cancel_requested_at:
        return move(transition, job, CANCELLED, now, ending(job, now))
    waiting = {
        "worker": None,
        "lease_until": None,
        "ready_at": now,
        "attempt": F("attempt") - 1,
        "start_by": None,  # it did begin in time
    }
    moved = move(transition, job, PENDING, now, waiting | changes)
    ring_on_commit([moved])
    return moved
