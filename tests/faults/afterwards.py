"""What follows a crash: leases run out, the sweeper comes by, other workers go on. And what must hold in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID, uuid4

from django.db.models import QuerySet

from jobs import lifecycle
from jobs.lifecycle import Outcome
from jobs.models import FINAL, FINAL_EVENTS, Batch, Event, EventType, Job, Status
from jobs.sql import statements
from jobs.sweeper import batches, expire, gates, promote, rescue
from notifications.models import Delivery, DeliveryStatus, Endpoint
from notifications.webhooks import dispatch

MOST_ROUNDS = 50


def recover() -> None:
    """Let the time pass that leases and pauses take, sweep, and have other workers do what is left to do.

    Raises:
        AssertionError: something never ends.
    """
    for _ in range(MOST_ROUNDS):
        let_time_pass()
        for duty in (rescue, promote, expire, gates, batches):
            duty.sweep()
        while hand := lifecycle.claim("default", uuid4(), 8):
            lifecycle.finish([Outcome(job=job, result=1) for job in hand if job.status == Status.RUNNING])
            let_time_pass()
        if not (_unfinished_jobs().exists() or Batch.objects.filter(finished_at__isnull=True).exists()):
            return
    raise AssertionError(f"{_unfinished_jobs().count()} jobs are left for ever")


def deliver_the_rest() -> None:
    """Have another sender deliver what is left.

    Raises:
        AssertionError: something is never delivered.
    """
    for _ in range(MOST_ROUNDS):
        let_time_pass()
        dispatch.deliver()
        if not _unsent().exists():
            return
    raise AssertionError(f"{_unsent().count()} deliveries are left for ever")


def let_time_pass() -> None:
    """Have all leases run out and all pauses be over."""
    past = statements().now() - timedelta(seconds=1)
    Job.objects.filter(lease_until__isnull=False).update(lease_until=past)
    Job.objects.filter(status=Status.PENDING, run_at__gt=past).update(run_at=past)
    Endpoint.objects.filter(owned_until__isnull=False).update(owned_until=past)
    _unsent().update(next_attempt_at=past)


def _unfinished_jobs() -> QuerySet[Job]:
    return Job.objects.exclude(status__in=FINAL)


def _unsent() -> QuerySet[Delivery]:
    return Delivery.objects.filter(status=DeliveryStatus.PENDING)


def check_logs(job_ids: Iterable[UUID]) -> None:
    """See that each job ended once and that its log tells all of it.

    Raises:
        AssertionError: a job is lost, or its log has a gap, two ends, or another end than the row.
    """
    for pk in job_ids:
        job = Job.objects.get(pk=pk)
        log = list(Event.objects.filter(job=pk).order_by("sequence").values_list("sequence", "type"))
        types = [each for _, each in log]
        assert job.status in FINAL, f"{pk} is {job.status}"
        assert [sequence for sequence, _ in log] == list(range(1, job.sequence + 1)), log
        assert types[0] == EventType.ACCEPTED
        assert types[-1] == f"job.{job.status.lower()}"
        ends = [place for place, each in enumerate(types) if each in FINAL_EVENTS]
        assert all(types[place + 1] == EventType.RETRYING for place in ends[:-1]), types  # it was reopened
        since = ends[-2] if len(ends) > 1 else 0
        # An attempt that was put back without its own fault doesn't count, and yet it began.
        assert types[since:].count(EventType.STARTED) >= job.attempt, (types, job.attempt)


def check_batches() -> None:
    """See that each batch was told of once.

    Raises:
        AssertionError: one wasn't, or twice.
    """
    told = Counter(Event.objects.filter(type=EventType.BATCH_COMPLETED).values_list("batch", flat=True))
    assert told == Counter(Batch.objects.values_list("pk", flat=True))


def check_deliveries(types: Iterable[str]) -> None:
    """See that each event of these types has one delivery, written down with it.

    Raises:
        AssertionError: one has none, or two.
    """
    events = Counter(Event.objects.filter(type__in=types, job__isnull=False).values_list("pk", flat=True))
    assert Counter(Delivery.objects.filter(event__type__in=types).values_list("event", flat=True)) == events
