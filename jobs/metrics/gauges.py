"""What stands when somebody reads: lines, workers, and whether what all need is there.

Each is a bounded look into an index, so that a million jobs in line cost no more than some thousand, and all are asked
at most every few seconds however many ask.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Count, F, Min, QuerySet
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.kinds import all_kinds
from jobs.limits import at_gates
from jobs.metrics.counted import OTHER, known
from jobs.models import Job, PausedQueue, Status, Worker
from jobs.sql import statements

logger = logging.getLogger(__name__)

KEPT_SECONDS = 5.0
MOST = 100_000
"""Lines are counted up to here: 10 ms or so."""
MOST_SCHEDULED = 10_000
"""These are read from the table, for no index has their queue."""
HEAD = 1000
"""So many of each priority are looked at for the oldest. Users take turns, so it stands among them unless more users
than that are in line."""

Source = Callable[[], Iterable[Metric]]

_sources: list[Source] = []


def register(source: Source) -> None:
    """Add something that is asked of the database; called once, when its app is ready."""
    _sources.append(source)


class Standing(Collector):
    """Asks all sources, and remembers what they said for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Metric] = []
        self._until = 0.0

    def collect(self) -> list[Metric]:
        """Give all gauges; where the database is away, those alone that say so."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._kept = list(_asked())
                self._until = time.monotonic() + KEPT_SECONDS
            return self._kept


def _asked() -> Iterator[Metric]:
    try:
        found = [metric for source in _sources for metric in source()]
    except (DatabaseError, InterfaceError) as error:
        logger.warning("No gauges: the database is away (%s)", type(error).__name__)
        connection.close()
        found = []
        yield GaugeMetricFamily("kabar_database_up", "Whether the database answers.", value=0)
    else:
        yield GaugeMetricFamily("kabar_database_up", "Whether the database answers.", value=1)
    yield from found


# --- This room's ------------------------------------------------------------------------------------------------------


def of_jobs() -> list[Metric]:
    """Ask for lines and workers. Indexes: job_claim, job_promote, job_running, job_gate."""
    now = statements().now()
    slots, processes, sweepers = _workers(now)
    queues = sorted({each.queue for each in all_kinds()} | set(slots))
    lines = {queue: Job.objects.filter(queue=queue, status=Status.PENDING, ready_at__isnull=False) for queue in queues}
    paused = set(PausedQueue.objects.values_list("name", flat=True))
    running, scheduled = _running(), _scheduled()
    by_queue: dict[str, tuple[str, dict[str, float]]] = {
        "pending": (f"Jobs in line; at most {MOST}.", {q: line[:MOST].count() for q, line in lines.items()}),
        "oldest_pending_seconds": (
            "How long the oldest in line has waited; 0 where none does.",
            {q: _age_of_oldest(line, now) for q, line in lines.items()},
        ),
        "scheduled": (f"Jobs whose time hasn't come; of the next {MOST_SCHEDULED} of all queues.", {**scheduled}),
        "running": ("Jobs that run, which is how many slots are busy.", {**running}),
        "paused": ("Whether it is paused.", {q: float(q in paused) for q in queues}),
        "workers": ("Worker processes seen lately.", {**processes}),
        "slots": ("How many jobs they run at once.", {**slots}),
    }
    held = GaugeMetricFamily(
        "kabar_jobs_held", f"Jobs due that wait at the gate of a kind with a limit; at most {MOST}.", labels=["kind"]
    )
    for kind in all_kinds():
        if kind.is_limited:
            held.add_metric([known(kind.name)], at_gates(kind)[:MOST].count())
    return [
        *(_family(f"kabar_queue_{name}", text, queues, values) for name, (text, values) in by_queue.items()),
        held,
        GaugeMetricFamily("kabar_sweepers", "Sweepers seen lately.", value=sweepers),
    ]


def _family(name: str, text: str, queues: list[str], values: dict[str, float]) -> Metric:
    """Make a gauge by queue; what lies in queues that nobody declares counts as one."""
    family = GaugeMetricFamily(name, text, labels=["queue"])
    for queue in queues:
        family.add_metric([queue], values.get(queue, 0.0))
    if others := sum(value for queue, value in values.items() if queue not in queues):
        family.add_metric([OTHER], others)
    return family


def _age_of_oldest(line: QuerySet[Job], now: datetime) -> float:
    in_order = line.order_by(F("priority").desc(), "turn", "id")
    oldest, rest = now, in_order
    while (priority := rest.values_list("priority", flat=True).first()) is not None:
        head = in_order.filter(priority=priority)[:HEAD]
        oldest = min(oldest, head.aggregate(first=Min("ready_at"))["first"] or now)
        rest = in_order.filter(priority__lt=priority)
    return (now - oldest).total_seconds()


def _workers(now: datetime) -> tuple[Tally[str], Tally[str], int]:
    slots, processes, sweepers = Tally[str](), Tally[str](), 0
    for queues, number in Worker.alive(now).values_list("queues", "slots"):
        slots.update(dict.fromkeys(queues, number))
        processes.update(dict.fromkeys(queues, 1))
        sweepers += not queues
    return slots, processes, sweepers


def _running() -> dict[str, int]:
    """Count what runs: no more than there are slots."""
    running = Job.objects.filter(status=Status.RUNNING).values_list("queue")
    return dict(running.annotate(Count("id")).order_by())


def _scheduled() -> Tally[str]:
    scheduled = Job.objects.filter(status=Status.PENDING, ready_at__isnull=True, run_at__isnull=False)
    return Tally(scheduled.order_by("run_at").values_list("queue", flat=True)[:MOST_SCHEDULED])
