"""Jobs of a kind that takes a millisecond, and half a second once in two hundred: who waits for the long ones?

A job is *passed* from the begin of the first job that stood behind it in line until its own. That may last as long as
the work in a hand (25 ms), and where it lies behind a long one, as long as it takes to notice that and to give it back
(50 ms and a look of the guard). If it had to wait for the long one, it would be half a second. Times when every child
is in a long handler are left out, for then nobody could have run it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import UUID

from benchmarks import backlog
from benchmarks.backlog import halted, newest_event, submit
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import percentile
from benchmarks.stack import Servers

JOBS = 4000
SHORT_SECONDS, LONG_SECONDS = 0.001, 0.5
ONE_IN = 200
LONGEST_P99_MS, LONGEST_MS = 200.0, 400.0

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """When a job's handler ran, in seconds since 1970, and in which process."""

    pid: int
    began: float
    ended: float
    is_long: bool


def run_uneven_jobs(servers: Servers, owner_id: int) -> Finding:
    """Drain such jobs and see how long each was passed."""
    chance = random.Random(1)
    long = {place + chance.randrange(ONE_IN) for place in range(0, JOBS, ONE_IN)}
    params = [{"seconds": LONG_SECONDS if number in long else SHORT_SECONDS} for number in range(JOBS)]
    with halted(servers):
        ids = submit("bench.uneven", JOBS, owner_id, params=params)
        since = newest_event()
    seconds = backlog.seconds_until_done(ids, since)
    backlog.check_first_attempts(ids)
    runs = _runs(ids, long)
    waits = [wait * 1000 for wait in passed(runs)]
    late, worst = percentile(waits, 99), max(waits)
    return Finding(
        title=f"Handlers of unforeseen length: {SHORT_SECONDS * 1000:g} ms, {LONG_SECONDS * 1000:g} once in {ONE_IN}",
        lines=[
            f"{JOBS} jobs, {len(long)} of them long, in {seconds:.1f} s",
            f"passed by jobs behind them, while a child was free of long ones, ms: p99 {late:.0f}, worst {worst:.0f}",
        ],
        faults=[
            *check(f"the p99 of {late:.0f} ms is over {LONGEST_P99_MS:g} ms", late <= LONGEST_P99_MS),
            *check(f"the worst of {worst:.0f} ms is over {LONGEST_MS:g} ms", worst <= LONGEST_MS),
        ],
    )


def _runs(ids: Sequence[UUID], long: set[int]) -> list[Run]:
    from jobs.models import Job

    results: dict[UUID, Any] = dict(Job.objects.filter(kind="bench.uneven").values_list("id", "result"))
    runs = []
    for number, pk in enumerate(ids):
        pid, began, ended = results[pk]  # what the handler gives
        runs.append(Run(pid=pid, began=began, ended=ended, is_long=number in long))
    return runs


def passed(runs: Sequence[Run]) -> list[float]:
    """Say how many seconds each job was passed; runs and answers are in the order of the line."""
    busy, earliest = _all_busy(runs), float("inf")
    waits = []
    for run in reversed(runs):
        waits.append(max(0.0, run.began - earliest) - sum(_overlap((earliest, run.began), each) for each in busy))
        earliest = min(earliest, run.began)
    return waits[::-1]


def _all_busy(runs: Sequence[Run]) -> list[Span]:
    """List when every child was in a long handler."""
    by_child: dict[int, list[Span]] = defaultdict(list)
    for run in runs:
        by_child[run.pid] += [(run.began, run.ended)] if run.is_long else []
    spans: list[Span] = [(float("-inf"), float("inf"))]
    for own in by_child.values():
        pairs = product(spans, own)
        spans = [(max(a, c), min(b, d)) for (a, b), (c, d) in pairs if max(a, c) < min(b, d)]
    return spans


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
