"""What the removal of many expired jobs costs those who submit meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.claims.copies import copy, empty_tables, settle
from benchmarks.claims.shapes import finished
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import Failed, percentile

LONGEST_MS = 200.0
"""Of any submission."""
ALONE_SECONDS = 10.0
TIMEOUT_SECONDS = 150.0
KEPT = 100_000
"""Finished jobs that have time left."""


def remove_beside_submissions(owner_id: int, jobs: int) -> Finding:
    """Have the sweeper's duty remove expired jobs, at its interval, while another process submits.

    Args:
        owner_id: whose jobs.
        jobs: how many are expired; each has its whole log.
    """
    empty_tables()
    template = finished(owner_id)
    copy(template, 1, KEPT)
    copy(template, KEPT + 1, jobs, own={"expires_at": "t.finished_at"})
    settle()
    alone = _submitting(owner_id, lambda: time.sleep(ALONE_SECONDS))
    rounds: list[float] = []
    begun = time.monotonic()
    beside = _submitting(owner_id, lambda: rounds.extend(_sweep_all(jobs)))
    seconds = time.monotonic() - begun
    longest = max(beside)
    return Finding(
        title=f"{jobs:,} expired jobs removed beside submissions",
        lines=[
            f"{jobs / seconds:,.0f} jobs/s removed, with the pauses between {len(rounds)} rounds",
            f"{jobs / sum(rounds):,.0f} jobs/s while a round lasts, the longest {max(rounds):.2f} s",
            f"submissions beside the removal, ms: {_spread(beside)}, {len(beside) / seconds:,.0f} a second",
            f"submissions without it, ms: {_spread(alone)}, {len(alone) / ALONE_SECONDS:,.0f} a second",
        ],
        faults=check(f"a submission took {longest:.0f} ms, over {LONGEST_MS:g}", longest <= LONGEST_MS),
    )


def _sweep_all(jobs: int) -> Sequence[float]:
    """Do rounds as the sweeper does; gives how many seconds each took."""
    from jobs.models import Event, Job
    from jobs.sweeper import retention

    rounds, removed, kept = [], 0, KEPT + 1
    end = time.monotonic() + TIMEOUT_SECONDS
    while removed < jobs:
        if time.monotonic() > end:
            raise Failed(f"{jobs - removed:,} of {jobs:,} not removed after {TIMEOUT_SECONDS:g} s")
        begun = time.monotonic()
        removed += retention.sweep()
        rounds.append(time.monotonic() - begun)
        time.sleep(max(0.0, begun + retention.INTERVAL_SECONDS - time.monotonic()))
    if (
        Job.objects.filter(status="COMPLETED").count() != kept
        or Event.objects.filter(type="job.completed").count() != kept
    ):
        raise Failed("more was removed than had expired, or less")
    return rounds


def _submitting(owner_id: int, meanwhile: Callable[[], None]) -> Sequence[float]:
    """Have another process submit one job after another meanwhile; gives the milliseconds of each."""
    command = [sys.executable, "-m", "benchmarks.claims.submitting", str(owner_id)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "begun\n":
                raise Failed("the process that submits did not begin")
            meanwhile()
            output, _ = process.communicate()
        finally:
            process.kill()
    times: Sequence[float] = json.loads(output)
    return times


def _spread(times: Sequence[float]) -> str:
    return f"p50 {percentile(times, 50):.1f}, p99 {percentile(times, 99):.1f}, longest {max(times):.1f}"
