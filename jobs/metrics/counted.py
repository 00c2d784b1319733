"""What this room counts: jobs and attempts, the handlers' time, the wait in line, requests, connections, rounds.

Names and units follow Prometheus' rules (https://prometheus.io/docs/practices/naming/). Labels are bounded: kinds and
queues that are declared, and words of ours; no user and no job.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from django.db import transaction
from prometheus_client import Counter, Gauge, Histogram

from jobs.kinds import is_kind
from jobs.metrics import files as files  # before any metric: it says where values lie
from jobs.metrics.faults import harmless
from jobs.models import Job, Status

if TYPE_CHECKING:
    from jobs.lifecycle import Outcome

OTHER = "other"
SHORT_AND_LONG = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 60, 300, 1800)
"""Seconds; from a no-op to what takes an hour."""
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
ROUND_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30)

ACCEPTED = Counter("kabar_jobs_accepted", "Jobs accepted.", ["kind"])
STARTED = Counter("kabar_attempts_started", "Attempts begun.", ["kind"])
FINISHED = Counter("kabar_jobs_finished", "Jobs ended, by how.", ["kind", "status"])
RETRIED = Counter("kabar_jobs_retried", "Jobs that wait for another attempt, by why.", ["kind", "reason"])
CRASHED = Counter("kabar_jobs_crashed", "Attempts whose worker was lost with them.", ["kind"])
LOST = Counter("kabar_leases_lost", "Attempts whose end was dropped: the job was no longer the worker's.", ["kind"])
HANDLER = Histogram("kabar_handler_duration_seconds", "How long handlers ran.", ["kind"], buckets=SHORT_AND_LONG)
WAIT = Histogram("kabar_queue_wait_seconds", "From due to taken by a worker.", ["queue"], buckets=SHORT_AND_LONG)
REQUESTS = Counter("kabar_http_requests", "Requests answered.", ["route", "method", "status"])
REQUEST = Histogram(
    "kabar_http_request_duration_seconds",
    "From a request to the begin of its answer; without those that were held.",
    ["route"],
    buckets=REQUEST_SECONDS,
)
CONNECTIONS = Gauge(
    "kabar_connections", "Clients that are told of news as it comes.", ["door"], multiprocess_mode="livesum"
)
ROUND = Histogram("kabar_sweeper_round_duration_seconds", "How long rounds took.", ["duty"], buckets=ROUND_SECONDS)
LAST_ROUND = Gauge(
    "kabar_sweeper_last_round_timestamp_seconds",
    "When the last round ended that went well.",
    ["duty"],
    multiprocess_mode="max",
)

REASONS = {"retry": "failure", "rescue": "worker_lost", "release": "worker_stopped", "reopen": "asked"}
"""Why another attempt follows, by the transition that leads back to PENDING."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Door(StrEnum):
    """By which a client stays connected."""

    WEBSOCKET = "websocket"
    STREAM = "stream"
    HELD = "held"


def known(kind: str) -> str:
    """Give a kind's name as a label; jobs may be left of kinds that are gone."""
    return kind if is_kind(kind) else OTHER


# --- Jobs -------------------------------------------------------------------------------------------------------------


def count_accepted(alike: Sequence[Sequence[Job]]) -> None:
    """Count new jobs once they are committed.

    Args:
        alike: the jobs, those of the same kind together.
    """
    kinds = Tally[str]()
    for some in alike:
        kinds[some[0].kind] += len(some)
    transaction.on_commit(lambda: _count(ACCEPTED, kinds))


@harmless
def _count(counter: Counter, kinds: Tally[str]) -> None:
    for kind, number in kinds.items():
        counter.labels(known(kind)).inc(number)


@harmless
def note_handler(kind: str, seconds: float) -> None:
    """Note how long a handler ran that was ended by force."""
    HANDLER.labels(known(kind)).observe(seconds)


@harmless
def count_trade(ended: Sequence[Outcome], begun: Sequence[Job], queue: str | None, waits: Sequence[float]) -> None:
    """Count what a worker has written: attempts that ended, and jobs that it took.

    Args:
        ended: with their jobs as they stand now; pending where another attempt follows.
        begun: jobs that it took and that begin at once.
        queue: where the jobs that it took come from, if it asked for any.
        waits: how long each of them stood in line, in seconds.
    """
    started, ends = Tally(job.kind for job in begun), Tally[tuple[str, str]]()
    ran: dict[str, list[float]] = defaultdict(list)
    for each in ended:
        kind = each.job.kind
        ends[kind, each.job.status] += 1
        started[kind] += each.begun is not None
        if each.began_at:
            ran[kind].append(each.ended_at - each.began_at)
    _count(STARTED, started)
    for (kind, status), number in ends.items():
        _note_move("retry", kind, status, number)
    for kind, seconds in ran.items():
        observe_all(HANDLER.labels(known(kind)), seconds)
    if queue and waits:
        observe_all(WAIT.labels(queue), waits)


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Do what `Histogram.observe` does for each value, in one go: that would take ten times as long for a hand of jobs.

    Args:
        histogram: one with its labels, and `SHORT_AND_LONG`.
        values: seconds; less than none, by a clock that was set back, is none.
    """
    places = Tally(bisect_left(SHORT_AND_LONG, seconds) for seconds in values)
    histogram._sum.inc(sum(seconds for seconds in values if seconds > 0))
    for place, number in places.items():
        histogram._buckets[place].inc(number)


def count_move(transition: str, job: Job) -> None:
    """Count a job that a transition had begin, end, or wait again, once that is committed."""
    kind, status = job.kind, job.status
    transaction.on_commit(lambda: _count_move(transition, kind, status))


@harmless
def _count_move(transition: str, kind: str, status: str) -> None:
    _note_move(transition, kind, status, 1)


def _note_move(transition: str, kind: str, status: str, number: int) -> None:
    if transition == "begin":
        STARTED.labels(known(kind)).inc(number)
    elif Status(status).is_final:
        FINISHED.labels(known(kind), status.lower()).inc(number)
    elif status == Status.PENDING and (reason := REASONS.get(transition)):
        RETRIED.labels(known(kind), reason).inc(number)


def count_crash(kind: str) -> None:
    """Count an attempt that was lost with its worker, once that is committed."""
    transaction.on_commit(lambda: _count(CRASHED, Tally([kind])))


@harmless
def count_lost_lease(kind: str) -> None:
    """Count an attempt whose end may not be written any more."""
    LOST.labels(known(kind)).inc()


# --- Web and sweeper --------------------------------------------------------------------------------------------------


@harmless
def count_request(*, route: str, method: str, status: int, seconds: float | None) -> None:
    """Count a request.

    Args:
        route: the pattern of its path.
        method: as it came.
        status: of the answer.
        seconds: until the answer began; None where it was held because the client asked for it.
    """
    REQUESTS.labels(route, method if method in METHODS else OTHER, status).inc()
    if seconds is not None:
        REQUEST.labels(route).observe(seconds)


@contextmanager
def connection(door: Door) -> Iterator[None]:
    """Count a client as connected for as long as this lasts."""
    _add_connections(door, 1)
    try:
        yield
    finally:
        _add_connections(door, -1)


@harmless
def _add_connections(door: Door, number: int) -> None:
    CONNECTIONS.labels(door).inc(number)


@harmless
def count_round(duty: str, seconds: float, *, has_succeeded: bool) -> None:
    """Note a round of a sweeper's duty."""
    ROUND.labels(duty).observe(seconds)
    if has_succeeded:
        LAST_ROUND.labels(duty).set_to_current_time()
