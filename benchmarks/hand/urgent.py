"""How soon urgent jobs begin during a backlog of short ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from benchmarks import backlog
from benchmarks.backlog import halted, newest_event, submit
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import Failed, percentile, wait_until
from benchmarks.stack import Servers

BACKLOG_JOBS = 20_000
PROBES = 100
EVERY_SECONDS = 0.1
PRIORITY = 100
MOST_BACKLOGS = 20
SPARE_SHARE = 0.1
"""When so little of a backlog is left, no more probes are sent into it."""
LONGEST_MS = 50.0
"""At the 99th percentile."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An urgent job; times are in seconds since 1970, on this machine's clock."""

    job_id: UUID
    submitted: float
    committed: float


def probe_a_backlog(servers: Servers, owner_id: int) -> Finding:
    """Send an urgent job every 100 ms into backlogs, ten seconds long in all, and time its begin."""
    waits: list[float] = []
    submissions: list[float] = []
    backlogs = 0
    while len(waits) < PROBES:
        backlogs += 1
        if backlogs > MOST_BACKLOGS:
            raise Failed("the backlogs are gone before a probe meets them")
        probes = _probe_one(servers, owner_id, PROBES - len(waits))
        began = _begins(probes)
        waits += [(began[each.job_id] - each.committed) * 1000 for each in probes]
        submissions += [(each.committed - each.submitted) * 1000 for each in probes]
    late = percentile(waits, 99)
    return Finding(
        title=f"Urgent jobs during a backlog of {BACKLOG_JOBS:,} no-op jobs",
        lines=[
            f"{len(waits)} probes of priority {PRIORITY}, one in {EVERY_SECONDS * 1000:.0f} ms, {backlogs} backlogs",
            f"commit to the handler's first line, ms: {_spread(waits)}",
            f"submission to commit, ms: {_spread(submissions)}",
        ],
        faults=check(f"the p99 of {late:.1f} ms is over {LONGEST_MS:g} ms", late <= LONGEST_MS),
    )


def _probe_one(servers: Servers, owner_id: int, most: int) -> list[Probe]:
    """Fill the line, let it go, send probes while much is left of it; give those that met it."""
    from django.db.models import Max

    from jobs.models import Job, Status

    with halted(servers):
        ids = submit("bench.noop", BACKLOG_JOBS, owner_id)
        since = newest_event()
    probes: list[Probe] = []
    next_at = time.monotonic()
    while len(probes) < most:
        next_at += EVERY_SECONDS
        time.sleep(max(0.0, next_at - time.monotonic()))
        done = (newest_event() - since - 3 * len(probes)) / 2  # two events each, and three of a probe
        if done > BACKLOG_JOBS * (1 - SPARE_SHARE):
            break
        probes.append(_send(owner_id))
    all_ids = [*ids, *(each.job_id for each in probes)]
    unfinished = Job.objects.filter(status__in=[Status.PENDING, Status.RUNNING])
    wait_until(lambda: not unfinished.exists(), backlog.TIMEOUT_SECONDS, pause_seconds=0.1)
    backlog.check_first_attempts(all_ids)
    last = Job.objects.filter(kind="bench.noop").aggregate(last=Max("started_at"))["last"].timestamp()
    return [each for each in probes if each.committed < last]


def _send(owner_id: int) -> Probe:
    from django.db import transaction

    commits: list[float] = []
    submitted = time.time()
    with transaction.atomic():
        transaction.on_commit(lambda: commits.append(time.time()))  # before the bells
        (job_id,) = submit("bench.probe", 1, owner_id, priority=PRIORITY)
    return Probe(job_id=job_id, submitted=submitted, committed=commits[0])


def _begins(probes: Sequence[Probe]) -> dict[UUID, float]:
    """Read when the probes' handlers began: it is their result."""
    from jobs.models import Job

    rows = Job.objects.filter(pk__in=[each.job_id for each in probes]).values_list("id", "result")
    return {job_id: float(result or 0) for job_id, result in rows}


def _spread(values: Sequence[float]) -> str:
    return f"p50 {percentile(values, 50):.1f}, p99 {percentile(values, 99):.1f}, worst {max(values):.1f}"
