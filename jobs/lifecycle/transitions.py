"""The table of transitions, and what all of them share: the guarded move, its event, and who is told."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from jobs import doorbell, limits, log, metrics, wakeup
from jobs.failures import UnknownKind
from jobs.kinds import get_kind
from jobs.models import FINAL, Batch, Event, EventType, Job, Status
from jobs.sql import statements
from jobs.subscribers import subscribers

PENDING, RUNNING = Status.PENDING, Status.RUNNING
COMPLETED, FAILED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.CANCELLED

# From where to where each transition may lead; whatever leads elsewhere is refused. A pending job in a worker's hand is
# reserved: `begin` is what a worker adds to the claim of such a job, at the latest together with its finish.
TRANSITIONS: Mapping[str, tuple[frozenset[Status], frozenset[Status]]] = {
    "accept": (frozenset(), frozenset({PENDING})),
    "claim": (frozenset({PENDING}), frozenset({RUNNING, PENDING})),
    "begin": (frozenset({PENDING}), frozenset({RUNNING})),
    "beat": (frozenset({RUNNING}), frozenset({RUNNING})),
    "finish": (frozenset({RUNNING}), frozenset({COMPLETED, FAILED, CANCELLED})),
    "retry": (frozenset({RUNNING}), frozenset({PENDING, CANCELLED})),
    "rescue": (frozenset({RUNNING, PENDING}), frozenset({PENDING, FAILED, CANCELLED})),
    "release": (frozenset({RUNNING, PENDING}), frozenset({PENDING, CANCELLED})),
    "cancel": (frozenset({PENDING}), frozenset({CANCELLED})),
    "expire": (frozenset({PENDING}), frozenset({FAILED})),
    "reopen": (frozenset({FAILED, CANCELLED}), frozenset({PENDING})),
}

EVENT_OF_END = {
    PENDING: EventType.RETRYING,
    COMPLETED: EventType.COMPLETED,
    FAILED: EventType.FAILED,
    CANCELLED: EventType.CANCELLED,
}

LEASE_SECONDS = 30
MOST_CRASHES = 3
"""A job whose worker was lost this often is not given to another."""
LONGEST_BACKOFF_SECONDS = 600


def check(transition: str, status: str) -> None:
    """Refuse what is no row of the table.

    Raises:
        RuntimeError: the transition doesn't lead there.
    """
    if Status(status) not in TRANSITIONS[transition][1]:
        raise RuntimeError(f"{transition} does not lead to {status}")


def move(
    transition: str,
    job: Job,
    status: Status,
    at: datetime,
    changes: dict[str, Any],
    *,
    event: EventType | None = None,
    extra: dict[str, Any] | None = None,
    version_step: int = 1,
) -> Job:
    """Move one locked row along a transition and tell of it; the guard repeats what the caller saw.

    Whoever moves jobs to their ends calls `after_moves` with all of them, last in the transaction.

    Args:
        transition: its name in the table.
        job: the row as it was read under its lock.
        status: where to.
        at: when, on the database's clock.
        changes: what else the row gets.
        event: what happened; that of an attempt's end if left out.
        extra: what the event says beyond the job's state.
        version_step: by how much the version rises.

    Returns:
        The row as it stands now.
    """
    check(transition, status)
    guard = Job.objects.filter(pk=job.pk, status__in=TRANSITIONS[transition][0], fence=job.fence, sequence=job.sequence)
    moved = guard.update(status=status, sequence=F("sequence") + 1, version=F("version") + version_step, **changes)
    if not moved:
        raise RuntimeError(f"{transition} of {job.pk}: the locked row changed")
    job = Job.objects.get(pk=job.pk)
    metrics.count_move(transition, job)
    append([log.Line(job=job, type=event or EVENT_OF_END[status], at=at, sequence=job.sequence, extra=extra or {})])
    return job


def append(lines: Sequence[log.Line]) -> None:
    """Write events, have subscribers add what is theirs, and tell watchers once it is committed."""
    if not lines:
        return
    events = log.append(lines)
    for each in subscribers():
        each.on_events([(event, line.job) for event, line in zip(events, lines, strict=True)])
    transaction.on_commit(wakeup.tell_news)


@dataclass(frozen=True, kw_only=True)
class Told:
    """Events that a hot statement has written itself."""

    job: Job
    first: int
    """The sequence of the first of them."""


def tell(told: Sequence[Told]) -> None:
    """Have subscribers add what is theirs to events that are written, and tell watchers once it is committed."""
    if not told:
        return
    hearing = _hearing({each.job.owner_id for each in told})
    _tell_subscribers([each for each in told if each.job.callback_url or each.job.owner_id in hearing])
    transaction.on_commit(wakeup.tell_news)


def tell_of_new(alike: Sequence[Sequence[Job]]) -> None:
    """Do the same for jobs that were just accepted; a `callbackUrl` that isn't to hear of it costs nothing.

    Args:
        alike: the jobs, those of the same owner together.
    """
    hearing = _hearing({some[0].owner_id for some in alike})
    heard = [
        Told(job=job, first=1)
        for some in alike
        for job in some
        if job.owner_id in hearing or (job.callback_url and EventType.ACCEPTED in job.callback_events)
    ]
    _tell_subscribers(heard)
    transaction.on_commit(wakeup.tell_news)


def _hearing(owner_ids: Collection[int]) -> set[int]:
    return {owner_id for each in subscribers() for owner_id in each.hearing(owner_ids)}


def _tell_subscribers(heard: Sequence[Told]) -> None:
    if not heard:
        return
    by_first: dict[int, list[UUID]] = defaultdict(list)
    for each in heard:
        by_first[each.first].append(each.job.pk)
    ranges = Q()  # one term each for a thousand jobs would be more than SQLite reads
    for first, ids in by_first.items():
        ranges |= Q(job__in=ids, sequence__gte=first)
    jobs = {each.job.pk: each.job for each in heard}
    events = [(event, jobs[event.job_id]) for event in Event.objects.filter(ranges).order_by("id") if event.job_id]
    for subscriber in subscribers():
        subscriber.on_events(events)


def after_moves(jobs: Iterable[Job]) -> None:
    """See to what the ends of jobs bring about: others may begin in their place, and batches may be complete.

    Once a transaction and last in it, so that all lock kinds in the same order.

    Args:
        jobs: those that have just moved, as they stand.
    """
    moved = list(jobs)
    limits.let_in(moved)
    batches = {job.batch_id for job in moved if job.batch_id and job.status in FINAL}
    if batches:
        # In a transaction after this one: of two that end the last jobs at once, neither sees the other's.
        transaction.on_commit(lambda: close_batches(batches))


def complete_batches(limit: int) -> list[UUID]:
    """Find batches whose jobs are all final and that nobody has told of. Indexes: batch_open, job_by_batch."""
    unfinished = Job.objects.filter(batch=OuterRef("pk"), status__in=[PENDING, RUNNING])
    complete = Batch.objects.filter(~Exists(unfinished), finished_at__isnull=True)
    return list(complete.order_by("pk").values_list("pk", flat=True)[:limit])


def close_batches(batch_ids: Iterable[UUID]) -> int:
    """Tell of batches whose jobs are all final; each is told of once. Indexes: job_by_batch, batch_open.

    Returns:
        How many are complete now.
    """
    unfinished = Job.objects.filter(batch=OuterRef("pk"), status__in=[PENDING, RUNNING])
    with transaction.atomic():
        open_ones = Batch.objects.select_for_update().filter(pk__in=batch_ids, finished_at__isnull=True)
        complete = list(open_ones.filter(~Exists(unfinished)).order_by("pk"))
        if not complete:
            return 0
        now = statements().now()
        for batch in complete:
            batch.sequence, batch.finished_at = batch.sequence + 1, now
        Batch.objects.bulk_update(complete, ["sequence", "finished_at"])
        events = log.append_batches(complete, now)
        for each in subscribers():
            each.on_batches(list(zip(events, complete, strict=True)))
        transaction.on_commit(wakeup.tell_news)
    return len(complete)


def ring_on_commit(jobs: Iterable[Job]) -> None:
    """Wake workers for jobs that are due, once it is committed that they are."""
    due = Counter(job.queue for job in jobs if job.ready_at)

    def ring() -> None:
        for queue, count in due.items():
            doorbell.ring(queue, count)

    if due:
        transaction.on_commit(ring)


def retention_of(job: Job) -> timedelta:
    """Say how long a finished job is kept."""
    try:
        return get_kind(job.kind).retention
    except UnknownKind:
        return settings.RETENTION


def ending(job: Job, now: datetime) -> dict[str, Any]:
    """Give what a row gets when its job ends."""
    return {
        "finished_at": now,
        "expires_at": now + retention_of(job),
        "ready_at": None,
        "worker": None,
        "lease_until": None,
        "gate": 0,
    }


def backoff_seconds(failures: int) -> float:
    """Say how long to wait before the next attempt: doubled each time, with jitter so that crowds spread out."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0**failures) * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
