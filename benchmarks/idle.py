"""One job at a time on idle workers: how long it takes, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID, uuid4

import redis

from benchmarks import rounds
from benchmarks.rounds import Failed

JOBS = 40
"""Submitted one after another, each when the one before is done."""
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 5
PARTS = (
    "submission, until it is committed",
    "bell and claim, until the row's started_at",
    "commit and handler, until its finished_at",
    "end written, committed, told and read",
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """When one job of Kabar's came where, in seconds since 1970 on this machine's clock."""

    job_id: UUID
    submitted: float
    accepted: float
    """Its first event is committed."""
    seen: float
    """A reader has found it completed."""


@dataclass(frozen=True, kw_only=True)
class Idle:
    """The two sides; each method returns milliseconds, the median of some jobs."""

    owner_id: int
    passages: list[Passage] = field(default_factory=list)
    """Of all jobs that Kabar was timed with."""

    def kabar(self) -> float:
        """From before `accept` until a reader sees the job completed, told by the wake-up that follows the commit."""
        from django.conf import settings
        from django.db import transaction

        from jobs import lifecycle, wakeup
        from jobs.kinds import get_kind
        from jobs.lifecycle import Submission
        from jobs.models import Job, Status

        submission = Submission(kind=get_kind("bench.noop"), owner_id=self.owner_id)
        news = redis.Redis.from_url(settings.REDIS_URL).pubsub()  # type: ignore[no-untyped-call]  # so in redis-py
        news.subscribe(f"{settings.CHANNEL_PREFIX}__group__{wakeup.GROUP}")
        commits: list[float] = []

        def once() -> None:
            submitted = time.time()
            with transaction.atomic():
                transaction.on_commit(lambda: commits.append(time.time()))  # before bells and wake-ups
                (job,) = lifecycle.accept([submission])
            completed = Job.objects.filter(pk=job.id, status=Status.COMPLETED)
            while not completed.exists():
                if news.get_message(timeout=PATIENCE_SECONDS) is None:
                    raise Failed(f"no news for {PATIENCE_SECONDS} s")
            self.passages.append(Passage(job_id=job.id, submitted=submitted, accepted=commits[-1], seen=time.time()))

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
            if valkey.blpop([key], timeout=PATIENCE_SECONDS) is None:
                raise Failed(f"no word for {PATIENCE_SECONDS} s")

        return _median_ms(once)

    def print_passages(self) -> None:
        """Print where Kabar's time went: medians of all jobs, by this program's clock and the rows' own times.

        Each part ends where the next begins, but their medians don't add up to the whole's.
        """
        from jobs.models import Job

        rows = Job.objects.in_bulk([each.job_id for each in self.passages])
        parts: dict[str, list[float]] = {}
        for each in self.passages:
            started_at, finished_at = rows[each.job_id].started_at, rows[each.job_id].finished_at
            if started_at is None or finished_at is None:
                raise Failed("a job has no times")
            moments = [each.submitted, each.accepted, started_at.timestamp(), finished_at.timestamp(), each.seen]
            for name, (begun, ended) in zip(PARTS, pairwise(moments), strict=True):
                parts.setdefault(name, []).append((ended - begun) * 1000)
        print(f"\nWhere an idle job of Kabar's spends its time (ms; p50 and p99 of {len(self.passages)} jobs)")
        for name, times in parts.items():
            print(f"  {name:<44}{rounds.percentile(times, 50):>10.2f}{rounds.percentile(times, 99):>10.2f}")


def _median_ms(once: Callable[[], None]) -> float:
    times = []
    for _ in range(JOBS):
        time.sleep(PAUSE_SECONDS)  # so that the workers are idle again
        begun = time.monotonic()
        once()
        times.append((time.monotonic() - begun) * 1000)
    return statistics.median(times)
