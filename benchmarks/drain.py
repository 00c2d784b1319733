"""How fast no-op jobs are drained, beside Celery alone and Celery with django-celery-results.

    python -m benchmarks.drain [--database sqlite|postgresql] [--jobs 800] [--rounds 5]

Each side has a worker with two prefork children. A queue is filled while its worker is halted; the time runs from the
moment that it goes on until nothing is left. Kabar writes its whole log, each transition durable, and each round is
checked.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import redis
from celery import Celery

from benchmarks import rounds
from benchmarks.rounds import Contender, Failed, wait_until
from benchmarks.stack import Servers, servers

TIMEOUT_SECONDS = 120.0
WARM_UP_JOBS = 20
IDLE_JOBS = 40
"""Submitted one after another, each when the one before is done."""
IDLE_PAUSE_SECONDS = 0.02

US, ALONE, RESULTS = "Kabar", "Celery alone, results ignored", "Celery with django-celery-results"


@dataclass(frozen=True, kw_only=True)
class Drains:
    """The three sides; each method returns jobs a second."""

    servers: Servers
    jobs: int
    owner_id: int

    def kabar(self) -> float:
        """Drain Kabar's queue and check the log."""
        from jobs.models import Job, Status

        with self.servers.paused("worker"):
            ids = self.accept(self.jobs)
        unfinished = Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING])
        pace = self._timed(lambda: not unfinished.exists())
        check_log(ids)
        return pace

    def alone(self) -> float:
        """Drain the queue of Celery alone."""
        from benchmarks.peers import celery_alone

        before = tasks_run(celery_alone.app)
        with self.servers.paused("celery_alone"):
            for _ in range(self.jobs):
                celery_alone.noop.delay()
        queue = redis.Redis.from_url(celery_alone.BROKER)
        pace = self._timed(lambda: not queue.llen("celery") and not queue.hlen("unacked"))
        if tasks_run(celery_alone.app) - before != self.jobs:
            raise Failed("Celery alone did not run each task once")
        return pace

    def results(self) -> float:
        """Drain the queue of Celery with django-celery-results and check the rows."""
        from django_celery_results.models import TaskResult

        from benchmarks.peers import celery_results

        succeeded = TaskResult.objects.filter(status="SUCCESS")
        target = succeeded.count() + self.jobs
        with self.servers.paused("celery_results"):
            for _ in range(self.jobs):
                celery_results.noop.delay()
        pace = self._timed(lambda: succeeded.count() >= target)
        if TaskResult.objects.count() != target:
            raise Failed("not one row for each task")
        return pace

    def accept(self, count: int) -> list[UUID]:
        """Submit jobs in one call."""
        from jobs import lifecycle
        from jobs.kinds import get_kind
        from jobs.lifecycle import Submission

        submission = Submission(kind=get_kind("bench.noop"), owner_id=self.owner_id)
        return [job.id for job in lifecycle.accept([submission] * count)]

    def _timed(self, is_done: Callable[[], bool]) -> float:
        begun = time.monotonic()
        wait_until(is_done, TIMEOUT_SECONDS)
        return self.jobs / (time.monotonic() - begun)


def check_log(ids: list[UUID]) -> None:
    """See that each job is completed with exactly its three events.

    Raises:
        Failed: one isn't.
    """
    from jobs.models import Event, EventType, Job, Status

    log: dict[UUID | None, list[tuple[int, str]]] = defaultdict(list)
    for place in range(0, len(ids), 500):  # SQLite limits the parameters of a statement
        some = ids[place : place + 500]
        if Job.objects.filter(pk__in=some, status=Status.COMPLETED, attempt=1).count() != len(some):
            raise Failed("a job is not completed at its first attempt")
        for job_id, sequence, kind in Event.objects.filter(job__in=some).values_list("job", "sequence", "type"):
            log[job_id].append((sequence, kind))
    whole = [(1, EventType.ACCEPTED), (2, EventType.STARTED), (3, EventType.COMPLETED)]
    if any(sorted(log[job_id]) != whole for job_id in ids):
        raise Failed("a job has not exactly its three events")


def tasks_run(app: Celery) -> int:
    """Ask the peer's worker how many tasks it has begun."""
    answers = app.control.inspect(timeout=5.0, limit=1).stats() or {}
    if not answers:
        raise Failed("the peer's worker does not answer")
    return sum(sum(each["total"].values()) for each in answers.values())


@dataclass(frozen=True, kw_only=True)
class Idle:
    """One job at a time, on idle workers; each method returns milliseconds, the median of some."""

    drains: Drains

    def kabar(self) -> float:
        """From before `accept` until a reader sees the job completed, told by the wake-up that follows the commit."""
        from django.conf import settings

        from jobs import wakeup
        from jobs.models import Job, Status

        news = redis.Redis.from_url(settings.REDIS_URL).pubsub()  # type: ignore[no-untyped-call]  # so in redis-py
        news.subscribe(f"{settings.CHANNEL_PREFIX}__group__{wakeup.GROUP}")

        def once() -> None:
            (job_id,) = self.drains.accept(1)
            completed = Job.objects.filter(pk=job_id, status=Status.COMPLETED)
            while not completed.exists():
                if news.get_message(timeout=5.0) is None:
                    raise Failed("no news for 5 s")

        try:
            return _median_ms(once)
        finally:
            news.close()

    def alone(self) -> float:
        """From before `delay` until the task's word over Valkey is here."""
        from benchmarks.peers import celery_alone

        valkey = redis.Redis.from_url(celery_alone.BROKER)

        def once() -> None:
            key = f"told {uuid4()}"
            celery_alone.tell.delay(key)
            if valkey.blpop([key], timeout=5) is None:
                raise Failed("no word for 5 s")

        return _median_ms(once)


def _median_ms(once: Callable[[], None]) -> float:
    times = []
    for _ in range(IDLE_JOBS):
        time.sleep(IDLE_PAUSE_SECONDS)  # so that the workers are idle again
        begun = time.monotonic()
        once()
        times.append((time.monotonic() - begun) * 1000)
    return statistics.median(times)


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=800)
    options = parser.parse_args()
    with servers(options.database, kabar=["worker", "sweeper"], peers=["celery_alone", "celery_results"]) as running:
        from django.contrib.auth import get_user_model

        owner = get_user_model().objects.create_user("benchmark")
        warm = Drains(servers=running, jobs=WARM_UP_JOBS, owner_id=owner.pk)
        for side in (warm.kabar, warm.alone, warm.results):
            side()
        rounds.print_machine({"database": options.database, "jobs a round": options.jobs, "children a worker": 2})
        drains = Drains(servers=running, jobs=options.jobs, owner_id=owner.pk)
        drained = rounds.compare(
            "Drain of no-op jobs",
            "jobs/s",
            [
                Contender(name=US, measure=drains.kabar),
                Contender(name=ALONE, measure=drains.alone),
                Contender(name=RESULTS, measure=drains.results),
            ],
            options.rounds,
        )
        idle = Idle(drains=drains)
        latency = rounds.compare(
            "Idle: submission to done",
            "ms",
            [Contender(name=US, measure=idle.kabar), Contender(name=ALONE, measure=idle.alone)],
            options.rounds,
        )
        drained.print(US, beside=[ALONE, RESULTS])
        latency.print(US, beside=[ALONE])
    return 0


if __name__ == "__main__":
    sys.exit(main())
