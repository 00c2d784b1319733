"""The drain beside a million jobs in line and a million finished ones, and the same on empty tables.

The rows are copies of a job that was accepted, and of one that was run, with all their events; only ids and places in
line are their own. Those in line come after the ones that are drained.
"""

from __future__ import annotations

import sys

from benchmarks import backlog, rounds
from benchmarks.backlog import check_first_attempts, halted, submit
from benchmarks.claims.copies import copy, empty_tables, settle
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import Comparison
from benchmarks.stack import Servers

BEHIND_PRIORITY = -1
SLOWEST = 0.5
"""Of the pace on empty tables; between runs of one thing this machine's paces vary by a third."""
EMPTY = "empty tables"


def drain_beside_many(servers: Servers, owner_id: int, *, rows: int, jobs: int, times: int) -> Finding:
    """Drain on empty tables, fill them, drain again.

    Args:
        servers: what runs.
        owner_id: whose jobs.
        rows: how many are in line, and how many are finished.
        jobs: how many are drained, each time.
        times: how often, of each.
    """
    many = f"{rows:,} in line, {rows:,} finished"
    paces = Comparison(title="Drain of no-op jobs", unit="jobs/s", figures={EMPTY: [], many: []})
    with halted(servers):
        empty_tables()
    for _ in range(times):
        paces.figures[EMPTY].append(_drain(servers, owner_id, jobs))
    (finished,), _ = backlog.timed_drain(servers, "bench.noop", 1, owner_id)
    with halted(servers), halted(servers, "sweeper"):
        (pending,) = submit("bench.noop", 1, owner_id, priority=BEHIND_PRIORITY)
        copy(pending, 1, rows)
        copy(finished, rows + 1, rows)
        settle()
    for _ in range(times):
        paces.figures[many].append(_drain(servers, owner_id, jobs))
    paces.print(many, beside=[EMPTY])
    ratio = rounds.percentile(paces.figures[many], 50) / rounds.percentile(paces.figures[EMPTY], 50)
    return Finding(
        title=f"{jobs:,} jobs drained beside {2 * rows:,} others",
        lines=[f"at {ratio:.2f} of the pace on empty tables"],
        faults=check(f"it is under {SLOWEST:g}", ratio >= SLOWEST),
    )


def _drain(servers: Servers, owner_id: int, jobs: int) -> float:
    ids, seconds = backlog.timed_drain(servers, "bench.noop", jobs, owner_id)
    with halted(servers):  # it would go on with those behind
        check_first_attempts(ids)
    print(f"{jobs / seconds:,.0f} jobs/s", file=sys.stderr, flush=True)
    return jobs / seconds
