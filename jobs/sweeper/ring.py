"""Rings again for jobs that are due and that nobody has claimed: their bell was lost, or all workers were busy."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from django.db.models import F

from jobs import doorbell
from jobs.kinds import all_kinds
from jobs.lifecycle import is_free
from jobs.models import Job, PausedQueue, Status, Worker
from jobs.sql import statements

INTERVAL_SECONDS = 1.0
OVERDUE_SECONDS = 0.5
"""Younger ones have just been rung for."""


def sweep() -> int:
    """Ring each queue as often as it has overdue jobs, but no more than workers have slots. Index: job_claim.

    However long a queue is, only as many rows are looked at as bells could go out.
    """
    now = statements().now()
    overdue, slots = now - timedelta(seconds=OVERDUE_SECONDS), slots_by_queue()
    queues = {each.queue for each in all_kinds()} | set(slots)
    rung = 0
    for queue in queues - set(PausedQueue.objects.values_list("name", flat=True)):
        in_line = Job.objects.filter(is_free(now), queue=queue, status=Status.PENDING, ready_at__isnull=False)
        first = in_line.order_by(F("priority").desc(), "turn", "id").values_list("ready_at", flat=True)
        count = sum(1 for ready_at in first[: max(1, slots[queue])] if ready_at and ready_at <= overdue)
        if count:
            doorbell.ring(queue, count)
        rung += count
    return rung


def slots_by_queue() -> Counter[str]:
    """Count the slots of all workers that live, by the queues that they hear."""
    slots: Counter[str] = Counter()
    for queues, number in Worker.alive(statements().now()).values_list("queues", "slots"):
        slots.update(dict.fromkeys(queues, number))
    return slots
