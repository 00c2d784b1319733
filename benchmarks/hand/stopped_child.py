"""A prefork child is halted in the middle of its hand for longer than its lease, and goes on afterwards.

A job in its hand halts it, so that it holds no lock, and much else lies in its hand: ends that are unwritten, jobs that
haven't begun. The other child must take all over, and whatever the halted one brings afterwards must change nothing.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import backlog
from benchmarks.backlog import halted, rows_and_logs, submit
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import wait_until
from benchmarks.stack import Servers

JOBS = 1000
STOPPERS = range(600, JOBS, 8)
"""Jobs that look whether the hand is full, and the last one needn't: by then both children claim by the handful. They
are few, because looking makes their kind slower and its hands smaller."""
FULL = 24
"""Of 32 at most."""
BEGIN_SECONDS = 30.0
TAKE_OVER_SECONDS = 60.0
"""Beyond the lease."""
AFTERWARDS_JOBS = 40
"""Of 100 ms, so that a child can be seen at them."""


def halt_a_child(servers: Servers, owner_id: int) -> Finding:
    """Halt a child for longer than its lease, and look at every job and its log."""
    from benchmarks.kinds import STOPPED

    with tempfile.TemporaryDirectory(prefix="kabar-benchmark-") as folder:
        params = [{"folder": folder, "number": number, "stops_at": 0} for number in range(JOBS)]
        for number in STOPPERS:
            params[number]["stops_at"] = 1 if number == STOPPERS[-1] else FULL
        with halted(servers):
            ids = submit("bench.stopping", JOBS, owner_id, params=params)
        stopped = Path(folder) / STOPPED
        wait_until(lambda: stopped.exists() and bool(stopped.read_text()), BEGIN_SECONDS)
        pid = int(stopped.read_text())
        try:
            return _watch(pid, ids, Path(folder), owner_id)
        finally:
            os.kill(pid, signal.SIGCONT)


def _watch(pid: int, ids: Sequence[UUID], folder: Path, owner_id: int) -> Finding:
    from jobs.lifecycle import LEASE_SECONDS
    from jobs.models import Job, Status, Worker

    begun, worker = time.monotonic(), Worker.objects.get(pid=pid).id
    held = set(Job.objects.filter(worker=worker).values_list("id", flat=True))
    begun_by_it = _runs(folder, pid)
    unfinished = Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING], id__gte=min(ids))
    wait_until(lambda: not unfinished.exists(), LEASE_SECONDS + TAKE_OVER_SECONDS, pause_seconds=0.2)
    seconds = time.monotonic() - begun
    before = _rows(ids)
    os.kill(pid, signal.SIGCONT)
    _see_at_work(worker, owner_id)
    after = _rows(ids)

    times = Counter(number for path in folder.glob("runs.*") for number in _runs(folder, int(path.suffix[1:])))
    again = {ids[number] for number, count in times.items() if count > 1}
    late = len(_runs(folder, pid)) - len(begun_by_it)
    unwritten = len(held & {ids[number] for number in begun_by_it[:-1]})
    shapes, faults = _look_at_logs(ids)
    changed = sum(before[pk] != after[pk] for pk in ids)
    return Finding(
        title="A child is halted for longer than its lease, its hand full",
        lines=[
            f"{JOBS} jobs, two children; the halted one held {len(held)}: one ran, {unwritten} had ended, unwritten",
            f"taken over and completed by the other one {seconds:.1f} s later; a lease is {LEASE_SECONDS} s",
            f"{changed} rows changed once it went on",
            f"{len(again)} handlers ran twice; {late} were begun by the halted one once it went on, for nothing",
            "logs: " + ", ".join(f"{count} of {length} events" for length, count in sorted(shapes.items())),
        ],
        faults=[
            *faults,
            *check(f"its hand was not full: {len(held)}", len(held) >= FULL),
            *check("the lease was not waited for", seconds >= LEASE_SECONDS - 1),
            *check("it changed rows that were no longer its own", changed == 0),
            *check("an end of its own took", all(after[pk]["result"] != pid for pk in held)),
            *check(
                "a job ran twice that it did not hold, or ran more often",
                again <= held and max(times.values()) < 3,
            ),
            *check("a job has not run", len(times) == JOBS),
        ],
    )


def _see_at_work(worker: UUID, owner_id: int) -> None:
    """Wait until a worker has claimed anew: then it has said of its old hand whatever it had to say."""
    from jobs.models import Job, Status

    with_it = Job.objects.filter(worker=worker, status=Status.RUNNING, kind="bench.sleep_100ms")
    ids: list[UUID] = []

    def is_at_work() -> bool:
        if not Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING]).exists():
            ids.extend(submit("bench.sleep_100ms", AFTERWARDS_JOBS, owner_id))
        return with_it.exists()

    wait_until(is_at_work, TAKE_OVER_SECONDS)
    unfinished = Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING])
    wait_until(lambda: not unfinished.exists(), TAKE_OVER_SECONDS)
    backlog.check_first_attempts(ids)


def _runs(folder: Path, pid: int) -> list[int]:
    """Read which jobs a process has begun, by their numbers."""
    return [int(line) for line in (folder / f"runs.{pid}").read_text().split()]


def _rows(ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:  # Any: the columns' values
    from jobs.models import Job

    rows = Job.objects.filter(id__gte=min(ids), kind="bench.stopping").values()
    return {row["id"]: dict(row) for row in rows}


def _look_at_logs(ids: Sequence[UUID]) -> tuple[Counter[int], list[str]]:
    """Count the lengths of the logs, and see that none has a gap, two ends, or a begin too many."""
    from jobs.models import FINAL_EVENTS, EventType, Status

    shapes: Counter[int] = Counter()
    gaps = ends = begins = unfinished = 0
    for jobs, logs in rows_and_logs(ids):
        unfinished += sum(job.status != Status.COMPLETED for job in jobs)
        for job in jobs:
            log = logs[job.pk]
            types = [kind for _, kind in log]
            shapes[len(log)] += 1
            gaps += [sequence for sequence, _ in log] != list(range(1, len(log) + 1))
            finals = [place for place, kind in enumerate(types) if kind in FINAL_EVENTS]
            ends += finals != [len(log) - 1] or types[-1] != EventType.COMPLETED
            begins += types.count(EventType.STARTED) != types.count(EventType.RETRYING) + 1
    return shapes, [
        *check(f"{unfinished} jobs are not completed", not unfinished),
        *check(f"{gaps} logs have gaps", not gaps),
        *check(f"{ends} logs do not end with their one completion", not ends),
        *check(f"{begins} logs have other begins than attempts", not begins),
    ]
