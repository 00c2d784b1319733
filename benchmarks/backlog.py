"""A line of Kabar's jobs: filled while the worker is halted, let go, timed, and checked job by job."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from benchmarks.rounds import Failed
from benchmarks.stack import Servers

if TYPE_CHECKING:  # at run time only once Django is set up
    from jobs.models import Job

TIMEOUT_SECONDS = 120.0
CHUNK = 1000
"""Jobs submitted in one call, as many as the API takes in one batch."""
READ_AT_ONCE = 500
"""SQLite limits the parameters of a statement."""
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.002, 0.25
LOCK_SECONDS = 0.5


def submit(
    kind: str, count: int, owner_id: int, *, params: Sequence[dict[str, Any]] | None = None, priority: int = 0
) -> list[UUID]:
    """Submit jobs of one kind, below the HTTP layer.

    Args:
        kind: its name.
        count: how many.
        owner_id: whose.
        params: of each; none if None.
        priority: of all.

    Returns:
        Their ids, in line.
    """
    from jobs import lifecycle
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    declared, ids = get_kind(kind), []
    for place in range(0, count, CHUNK):
        some = [
            Submission(kind=declared, owner_id=owner_id, priority=priority, params=params[number] if params else {})
            for number in range(place, min(place + CHUNK, count))
        ]
        ids += [job.id for job in lifecycle.accept(some)]
    return ids


@contextmanager
def halted(servers: Servers, name: str = "worker") -> Iterator[None]:
    """Halt a worker at a moment when it holds no lock that others need."""
    while True:
        with servers.paused(name):
            if _is_free_to_write():
                yield
                return


def _is_free_to_write() -> bool:
    """Tell whether SQLite's only writer isn't the one that was halted just now."""
    from django.db import OperationalError, connection, transaction

    if connection.vendor != "sqlite":
        return True
    usual = connection.busy_seconds  # type: ignore[attr-defined]  # config.sqlite
    connection.busy_seconds = LOCK_SECONDS  # type: ignore[attr-defined]
    try:
        with transaction.atomic():  # takes the write lock
            return True
    except OperationalError:
        return False
    finally:
        connection.busy_seconds = usual  # type: ignore[attr-defined]


def newest_event() -> int:
    """Give the id of the log's last event: one step into the primary key, however many jobs are in line."""
    from jobs.models import Event

    return Event.objects.order_by("-id").values_list("id", flat=True).first() or 0


def seconds_until_done(ids: Sequence[UUID], since: int) -> float:
    """Time how long it takes from now until these jobs are completed.

    Args:
        ids: of jobs that are all there is to do, or come before all else.
        since: the log's last event before any of them began.
    """
    from jobs.models import Job, Status

    unfinished = Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING], id__gte=min(ids))

    def count_done() -> int:
        done = min(len(ids), (newest_event() - since) // 2)  # a start and an end for each
        # An id may be seen before a smaller one is committed, and may be lost: the jobs themselves have the last word.
        return done - 1 if done == len(ids) and unfinished.exists() else done

    return seconds_until(count_done, len(ids))


def seconds_until(count_done: Callable[[], int], total: int) -> float:
    """Time how long it takes from now until all is done, looking seldom at first and often at the end.

    A look costs the one who works; so each is taken after half of the time that the rest should need.

    Raises:
        Failed: it isn't done after `TIMEOUT_SECONDS`.
    """
    begun = time.monotonic()
    while (done := count_done()) < total:
        seconds = time.monotonic() - begun
        if seconds > TIMEOUT_SECONDS:
            raise Failed(f"{total - done} of {total} not done after {seconds:.0f} s")
        rest = seconds * (total - done) / done if done else 0.0
        time.sleep(min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, rest / 2)))
    return time.monotonic() - begun


def drain(servers: Servers, kind: str, count: int, owner_id: int) -> float:
    """Fill the line while the worker is halted, have it emptied, and check every job.

    Returns:
        Jobs a second, from the moment the worker goes on until nothing is left.
    """
    ids, seconds = timed_drain(servers, kind, count, owner_id)
    check_first_attempts(ids)
    return count / seconds


def timed_drain(servers: Servers, kind: str, count: int, owner_id: int) -> tuple[list[UUID], float]:
    """Do the same without the check; gives the jobs, and the seconds."""
    with halted(servers):
        ids = submit(kind, count, owner_id)
        since = newest_event()
    return ids, seconds_until_done(ids, since)


def check_first_attempts(ids: Sequence[UUID]) -> None:
    """See that each job is completed at its first attempt with exactly its three events.

    Raises:
        Failed: one isn't.
    """
    from jobs.models import EventType, Status

    whole = [EventType.ACCEPTED, EventType.STARTED, EventType.COMPLETED]
    for some, log in rows_and_logs(ids):
        if any(job.status != Status.COMPLETED or job.attempt != 1 for job in some):
            raise Failed("a job is not completed at its first attempt")
        if any(log[job.pk] != list(enumerate(whole, start=1)) for job in some):
            raise Failed("a job has not exactly its three events")


def rows_and_logs(ids: Sequence[UUID]) -> Iterator[tuple[list[Job], dict[UUID, list[tuple[int, str]]]]]:
    """Read jobs and what the log has of each, `(sequence, type)` in order, some at a time.

    Raises:
        Failed: a job isn't there.
    """
    from jobs.models import Event, Job

    for place in range(0, len(ids), READ_AT_ONCE):
        some = ids[place : place + READ_AT_ONCE]
        log: dict[UUID, list[tuple[int, str]]] = defaultdict(list)
        events = Event.objects.filter(job__in=some).order_by("job", "sequence")
        for job_id, sequence, kind in events.values_list("job", "sequence", "type"):
            assert job_id is not None
            log[job_id].append((sequence, kind))
        jobs = list(Job.objects.filter(pk__in=some).only("status", "attempt"))
        if len(jobs) != len(some):
            raise Failed("a job is gone")
        yield jobs, log
