"""Rings again for jobs that are due and that nobody has claimed: their bell was lost, or all workers were busy."""

from collections import Counter
from datetime import timedelta

from django.db.models import Count

from jobs import doorbell
from jobs.models import Job, Status, Worker
from jobs.sql import statements

INTERVAL_SECONDS = 1.0
OVERDUE_SECONDS = 0.5
"""Younger ones have just been rung for."""


def sweep() -> int:
    """Ring each queue as often as it has overdue jobs, but no more than workers have slots. Index: job_claim."""
    now = statements().now()
    overdue = (
        Job.objects.filter(status=Status.PENDING, ready_at__lte=now - timedelta(seconds=OVERDUE_SECONDS))
        .values_list("queue")
        .annotate(count=Count("id"))
        .order_by()
    )
    slots: Counter[str] = Counter()
    for queues, number in Worker.alive(now).values_list("queues", "slots"):
        slots.update(dict.fromkeys(queues, number))
    rung = 0
    for queue, count in overdue:
        bells = min(count, max(1, slots[queue]))
        doorbell.ring(queue, bells)
        rung += bells
    return rung
