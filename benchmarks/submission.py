"""How fast jobs are taken in by the thousand, beside Celery's `delay` and Django's `bulk_create` of the same rows.

    python -m benchmarks.submission [--database sqlite|postgresql] [--rounds 5]

Below the HTTP layer, in one process: `lifecycle.accept` and `accept_batch` with a thousand submissions a call, each
with params of its own. A call returns when jobs and events are committed and on the disk; turns and gates are seen to,
whoever listens is told, and bells and wake-ups go out. Celery's messages lie in Valkey's memory. No worker runs.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from benchmarks import rounds
from benchmarks.backlog import CHUNK, rows_and_logs
from benchmarks.rounds import Contender, Failed
from benchmarks.stack import servers

if TYPE_CHECKING:  # at run time only once Django is set up
    from jobs.lifecycle import Submission
    from jobs.models import Job

WARM_UP_JOBS = 3 * CHUNK
PARTED_CALLS = 20
US, US_BATCH = "Kabar, accept", "Kabar, accept_batch"
ALONE, BARE = "Celery alone, delay in a loop", "Django, bulk_create of the same rows"
INSERTING, ASKING, PYTHON, COMMITTING = (
    "statements that insert",
    "statements that ask",
    "Python",
    "commit, until it is on the disk",
)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The sides; each method returns jobs a second."""

    owner_id: int

    def accept(self, jobs: int) -> float:
        """Submit and check."""
        from jobs import lifecycle

        return self._timed(jobs, lifecycle.accept)

    def accept_batch(self, jobs: int) -> float:
        """Submit as batches and check."""
        from jobs import lifecycle

        return self._timed(jobs, lambda some: lifecycle.accept_batch(some, self.owner_id)[1])

    def bulk_create(self, jobs: int) -> float:
        """Have Django write rows that look alike: no turns, no gates, nobody told, no bells."""
        from django.db import transaction
        from django.utils import timezone

        from jobs.models import Event, EventType, Job
        from jobs.representation import changing_state

        def create(some: Sequence[Submission]) -> list[Job]:
            now = timezone.now()
            rows = [
                Job(
                    owner_id=each.owner_id,
                    kind=each.kind.name,
                    queue=each.kind.queue,
                    params=each.params,
                    max_attempts=each.kind.max_attempts,
                    timeout_seconds=each.kind.timeout_seconds,
                    created_at=now,
                    ready_at=now,
                )
                for each in some
            ]
            events = [
                Event(
                    job=row,
                    owner_id=row.owner_id,
                    kind=row.kind,
                    sequence=1,
                    type=EventType.ACCEPTED,
                    data=changing_state(row),
                    at=now,
                )
                for row in rows
            ]
            with transaction.atomic():
                Job.objects.bulk_create(rows)
                Event.objects.bulk_create(events)
            return rows

        return self._timed(jobs, create)

    def alone(self, jobs: int) -> float:
        """Send Celery's messages, and take them away again."""
        import redis

        from benchmarks.peers import celery_alone

        queue = redis.Redis.from_url(celery_alone.BROKER)
        begun = time.perf_counter()
        for _ in range(jobs):
            celery_alone.noop.delay()
        seconds = time.perf_counter() - begun
        if queue.llen("celery") != jobs:
            raise Failed("not every message lies in Celery's queue")
        queue.delete("celery")
        return jobs / seconds

    def submissions(self) -> list[Submission]:
        """Make as many as one call takes, checked as those that the API hands on."""
        from jobs.kinds import get_kind
        from jobs.lifecycle import Submission

        kind = get_kind("bench.noop")
        return [Submission(kind=kind, owner_id=self.owner_id, params={"number": each}) for each in range(CHUNK)]

    def _timed(self, jobs: int, submit: Callable[[Sequence[Submission]], Sequence[Job]]) -> float:
        ids: list[UUID] = []
        seconds = 0.0
        for _ in range(0, jobs, CHUNK):
            some = self.submissions()
            begun = time.perf_counter()
            made = submit(some)
            seconds += time.perf_counter() - begun
            ids += [job.pk for job in made]
        check(ids)
        return len(ids) / seconds


def check(ids: Sequence[UUID]) -> None:
    """See that each job is pending and has its first event.

    Raises:
        Failed: one isn't, or hasn't.
    """
    from jobs.models import EventType, Status

    for some, log in rows_and_logs(ids):
        if any(job.status != Status.PENDING or log[job.pk] != [(1, EventType.ACCEPTED)] for job in some):
            raise Failed("a job isn't pending with exactly its first event")


def print_parts(sides: Sides) -> None:
    """Print where the time of `accept` goes: microseconds a job, by part, of some calls that are timed apart."""
    from django.db import connection, transaction

    from jobs import lifecycle

    calls: dict[str, list[float]] = defaultdict(list)
    for _ in range(PARTED_CALLS):
        some, committed = sides.submissions(), []
        with timed_statements() as seconds:
            begun = time.perf_counter()
            with transaction.atomic():
                transaction.on_commit(lambda: committed.append(time.perf_counter()))  # noqa: B023 - called in this turn
                lifecycle.accept(some)
                accepted = time.perf_counter()
            ended = time.perf_counter()
        committing = committed[0] - accepted
        parts = {**seconds, COMMITTING: committing, PYTHON: ended - begun - committing - sum(seconds.values())}
        for name, part in parts.items():
            calls[name].append(part * 1e6 / CHUNK)
    print(
        f"\nWhere {connection.display_name} has accept spend its time (µs a job; p50 and p90 of {PARTED_CALLS} calls)"
    )
    for name in (INSERTING, ASKING, PYTHON, COMMITTING):
        print(f"  {name:<44}{rounds.percentile(calls[name], 50):>10.1f}{rounds.percentile(calls[name], 90):>10.1f}")


@contextmanager
def timed_statements() -> Iterator[dict[str, float]]:
    """Add up how long this process's statements take, in seconds, those that insert and the others."""
    from django.db import connection

    seconds = {INSERTING: 0.0, ASKING: 0.0}

    # Any: as Django has it for whoever wraps an execution.
    def timed(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        begun = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            seconds[INSERTING if "INSERT INTO" in sql else ASKING] += time.perf_counter() - begun

    with connection.execute_wrapper(timed):
        yield seconds


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs a round of Kabar")
    parser.add_argument("--bare-jobs", type=int, default=3_000, help="jobs a round of Django's bulk_create")
    parser.add_argument("--alone-jobs", type=int, default=2_000, help="messages a round of Celery alone")
    options = parser.parse_args()
    with servers(options.database, kabar=[]):
        from django.contrib.auth import get_user_model

        sides = Sides(owner_id=get_user_model().objects.create_user("benchmark").pk)
        for measure in (sides.accept, sides.accept_batch, sides.bulk_create, sides.alone):
            measure(WARM_UP_JOBS)
        rounds.print_machine(
            {
                "database": options.database,
                "jobs a round": f"{options.jobs}, {options.bare_jobs} by bulk_create, {options.alone_jobs} messages",
                "jobs a call": CHUNK,
            }
        )
        compared = rounds.compare(
            "Submission in bulk",
            "jobs/s",
            [
                Contender(name=US, measure=lambda: sides.accept(options.jobs)),
                Contender(name=US_BATCH, measure=lambda: sides.accept_batch(options.jobs)),
                Contender(name=BARE, measure=lambda: sides.bulk_create(options.bare_jobs)),
                Contender(name=ALONE, measure=lambda: sides.alone(options.alone_jobs)),
            ],
            options.rounds,
        )
        compared.print(US, beside=[ALONE, BARE])
        compared.print_ratio(US_BATCH, ALONE)
        print_parts(sides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
