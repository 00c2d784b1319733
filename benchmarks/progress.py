"""What it costs to report progress: very often in one job, and in many jobs at once.

    python -m benchmarks.progress [--database sqlite|postgresql] [--rounds 5] [--thread-rounds 3]

One job reports a million times in a prefork child, beside the same loop without. Then a hundred jobs (80 on PostgreSQL)
in the threads of one worker report ten times a second each, beside as many that sleep in the same steps; what counts
there is the processor time of that worker's process, which the system tells.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import rounds
from benchmarks.rounds import Comparison, Contender, Failed, wait_until
from benchmarks.stack import Servers, servers

REPORTING, BARE, DIFFERENCE = "a million reports", "the loop without them", "the reports alone"
TICKING, SLEEPING, ADDED = "jobs that report 10 times a second", "jobs that only sleep", "the reports alone"
MOST_SECONDS = 5.0
MOST_PERCENT_A_JOB = 0.25
JOBS = {"sqlite": 100, "postgresql": 80}
"""At once; each thread keeps a connection, and PostgreSQL's default settings allow 100 in all."""
OTHER_VERSIONS = 3
"""Accepted, started, completed: each raises a job's version by one, as each push and each write of progress does."""
PATIENCE_SECONDS = 120.0
STARTING_SECONDS = 60.0
SETTLING_SECONDS = 2.0


@dataclass(kw_only=True)
class Ears:
    """Counts what is pushed."""

    messages: int = 0
    """On the wire."""
    pushes: Counter[str] = field(default_factory=Counter)
    """By job; one message may carry those of many."""

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen as a web process does."""
        import redis
        from channels.layers import get_channel_layer
        from django.conf import settings

        from jobs import wakeup

        news = redis.Redis.from_url(settings.REDIS_URL).pubsub()  # type: ignore[no-untyped-call]  # so in redis-py
        news.subscribe(f"{settings.CHANNEL_PREFIX}__group__{wakeup.GROUP}")
        layer, is_over = get_channel_layer(), threading.Event()

        def listen() -> None:
            while not is_over.is_set():
                heard = news.get_message(timeout=0.2)
                if heard and heard["type"] == "message":
                    said = layer.deserialize(heard["data"])
                    if said["type"] == "progress":
                        self.messages += 1
                        self.pushes.update(each["job"] for each in said["jobs"])

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield
        finally:
            is_over.set()
            listener.join()
            news.close()


@dataclass(frozen=True, kw_only=True)
class Often:
    """One job, a million reports; each method returns the seconds that its handler took."""

    owner_id: int
    reports: int
    notes: list[str] = field(default_factory=list)
    """How many pushes and writes each job made."""

    def reporting(self) -> float:
        """Run the loop with reports."""
        return self._seconds(True)

    def bare(self) -> float:
        """Run the loop without."""
        return self._seconds(False)

    def _seconds(self, reports: bool) -> float:
        from jobs.models import Job, Status

        ears = Ears()
        with ears.open():
            (pk,) = submit("bench.reports", 1, self.owner_id, rounds=self.reports, reports=reports)
            ended = Job.objects.filter(pk=pk, status=Status.COMPLETED)
            wait_until(ended.exists, PATIENCE_SECONDS)
        job = ended.get()
        if reports:
            pushes = ears.pushes[str(pk)]
            if not pushes or not job.progress or job.progress["current"] != self.reports - 1:
                raise Failed("the newest progress isn't there, or none was pushed")
            self.notes.append(f"{pushes} pushes and {job.version - OTHER_VERSIONS - pushes} writes")
        return float(job.result or 0)


@dataclass(frozen=True, kw_only=True)
class Many:
    """Many jobs in one process; each method returns how many percent of one core its process takes."""

    owner_id: int
    pid: int
    jobs: int
    window_seconds: float
    notes: list[str] = field(default_factory=list)
    """How many messages carried how many pushes."""

    def ticking(self) -> float:
        """Have all report."""
        return self._share(True)

    def sleeping(self) -> float:
        """Have all sleep."""
        return self._share(False)

    def _share(self, reports: bool) -> float:
        from jobs.models import Job, Status

        # One call each, so that there is a bell for every thread.
        seconds = self.window_seconds + 3 * SETTLING_SECONDS
        ids = [
            pk
            for _ in range(self.jobs)
            for pk in submit("bench.ticking", 1, self.owner_id, seconds=seconds, reports=reports)
        ]
        jobs = Job.objects.filter(pk__in=ids)
        wait_until(lambda: jobs.filter(status=Status.RUNNING).count() == self.jobs, STARTING_SECONDS)
        time.sleep(SETTLING_SECONDS)
        ears = Ears()
        with ears.open():
            before, begun = processor_seconds(self.pid), time.monotonic()
            time.sleep(self.window_seconds)
            share = (processor_seconds(self.pid) - before) / (time.monotonic() - begun)
        if jobs.filter(status=Status.RUNNING).count() != self.jobs:
            raise Failed("a job ended too early")
        wait_until(lambda: jobs.filter(status=Status.COMPLETED).count() == self.jobs, PATIENCE_SECONDS)
        if reports:
            per_second = ears.pushes.total() / self.window_seconds
            self.notes.append(
                f"{ears.messages / self.window_seconds:.1f} messages with {per_second:.0f} pushes a second"
            )
        return 100 * share


def submit(kind: str, count: int, owner_id: int, **params: Any) -> list[UUID]:
    """Submit jobs with these params."""
    from benchmarks import backlog

    return backlog.submit(kind, count, owner_id, params=[params] * count)


def processor_seconds(pid: int) -> float:
    """Read how long a process has used processors so far, in all its threads (proc(5): utime and stime)."""
    *_, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = rest.split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def print_comparison(comparison: Comparison, us: str, peer: str, difference: str, notes: Sequence[str]) -> float:
    """Print both sides, what one takes more than the other, and what was noted.

    Returns:
        The median of what it takes more.
    """
    pairs = zip(comparison.figures[us], comparison.figures[peer], strict=True)
    comparison.figures[difference] = [one - other for one, other in pairs]
    comparison.print(us, beside=[])
    for each in notes:
        print(f"    {each}")
    return rounds.percentile(comparison.figures[difference], 50)


def measure_often(owner_id: int, reports: int, times: int) -> bool:
    """Measure one job that reports very often, print it, and tell whether it is cheap enough."""
    often = Often(owner_id=owner_id, reports=reports)
    compared = rounds.compare(
        f"A job that reports {reports:,} times",
        "s",
        [Contender(name=REPORTING, measure=often.reporting), Contender(name=BARE, measure=often.bare)],
        times,
    )
    cost = print_comparison(compared, REPORTING, BARE, DIFFERENCE, often.notes)
    print(f"  {cost * 1e6 / reports:.2f} µs a report; at most {MOST_SECONDS * 1e6 / reports:.2f} are wanted")
    return cost < MOST_SECONDS


def measure_many(running: Servers, owner_id: int, jobs: int, window_seconds: float, times: int) -> bool:
    """Measure many jobs in one process, print it, and tell whether they are cheap enough."""
    pid = running.peers.pid("threads") if running.peers else None
    if pid is None:
        raise Failed("the worker with threads doesn't run")
    many = Many(owner_id=owner_id, pid=pid, jobs=jobs, window_seconds=window_seconds)
    compared = rounds.compare(
        f"Processor time of a worker that runs {jobs} jobs in threads, over {window_seconds:g} s",
        "% of one core",
        [Contender(name=TICKING, measure=many.ticking), Contender(name=SLEEPING, measure=many.sleeping)],
        times,
    )
    print_comparison(compared, TICKING, SLEEPING, ADDED, many.notes)
    most = MOST_PERCENT_A_JOB * jobs
    print(f"  at most {most:g} % are wanted, sleeping included")
    return rounds.percentile(compared.figures[TICKING], 50) < most


def main() -> int:
    """Measure and print; fails where a goal is missed."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--reports", type=int, default=1_000_000, help="of one job")
    parser.add_argument("--thread-rounds", type=int, default=3, help="rounds with a hundred jobs")
    parser.add_argument("--window", type=float, default=20.0, help="seconds that a hundred jobs are watched")
    options = parser.parse_args()
    with servers(options.database, kabar=["worker", "sweeper"], peers=["threads"]) as running:
        from django.contrib.auth import get_user_model

        owner_id = get_user_model().objects.create_user("benchmark").pk
        rounds.print_machine(
            {"database": options.database, "reports": options.reports, "jobs in threads": JOBS[options.database]}
        )
        is_cheap = [
            measure_often(owner_id, options.reports, options.rounds),
            measure_many(running, owner_id, JOBS[options.database], options.window, options.thread_rounds),
        ]
    return 0 if all(is_cheap) else 1


if __name__ == "__main__":
    sys.exit(main())
