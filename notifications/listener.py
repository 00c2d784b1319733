"""What this room does when the other tells of an event: it writes down who is to hear of it by webhook.

All of it happens in the event's own transaction, so no crash can come between an event and its deliveries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet

from jobs import doorbell
from jobs.models import Batch, Event, EventType, Job
from jobs.subscribers import RefusedSubmission
from notifications import destinations
from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus, Webhook
from notifications.webhooks.failures import WebhookFailure

QUEUE = "webhooks"
DELIVER = "notifications.deliver"


class WebhookListener:
    """The notifications room as a subscriber of the jobs room."""

    def check_submission(self, *, callback_url: str, callback_events: Sequence[str]) -> None:
        if not callback_url:
            return
        try:
            destinations.check(callback_url)
        except WebhookFailure as refused:
            raise RefusedSubmission("/callbackUrl", refused.code, refused.message) from refused

    def hearing(self, owner_ids: Collection[int]) -> set[int]:
        marks = ", ".join(["%s"] * len(owner_ids))
        # Asked in every trade of a worker: the ORM would take four times as long.
        statement = f"SELECT owner_id FROM notifications_webhook WHERE is_active AND owner_id IN ({marks})"  # noqa: S608
        with connection.cursor() as cursor:
            cursor.execute(statement, [*owner_ids])
            return {owner_id for (owner_id,) in cursor.fetchall()}

    def on_events(self, events: Sequence[tuple[Event, Job]]) -> None:
        registered = webhooks_of({job.owner_id for _, job in events})
        endpoint_for = cache(destinations.endpoint_for)
        deliveries = []
        for event, job in events:
            if job.callback_url and event.type in job.callback_events:
                endpoint = endpoint_for(job.owner_id, job.callback_url)
                deliveries.append(new_delivery(event, job, endpoint.pk, job.callback_url, None))
            deliveries += [
                new_delivery(event, job, webhook.endpoint_id, webhook.url, webhook)
                for webhook in registered[job.owner_id]
                if wants(webhook, event)
            ]
        send(deliveries)

    def on_batches(self, events: Sequence[tuple[Event, Batch]]) -> None:
        registered = webhooks_of({batch.owner_id for _, batch in events})
        deliveries = []
        for event, batch in events:
            if batch.callback_url:
                endpoint = destinations.endpoint_for(batch.owner_id, batch.callback_url)
                deliveries.append(new_delivery(event, None, endpoint.pk, batch.callback_url, None))
            deliveries += [
                new_delivery(event, None, webhook.endpoint_id, webhook.url, webhook)
                for webhook in registered[batch.owner_id]
                if event.type in webhook.event_types
            ]
        send(deliveries)

    def on_purge(self, job_ids: Sequence[UUID]) -> None:
        remove_deliveries(Delivery.objects.filter(job__in=job_ids))

    def has_open_work(self, subject_id: UUID) -> bool:
        still_open = Delivery.objects.filter(status=DeliveryStatus.PENDING)
        return still_open.filter(job=subject_id).exists() or still_open.filter(event__batch=subject_id).exists()

    def doors(self, job: Job) -> list[dict[str, Any]]:
        deliveries = Delivery.objects.filter(job=job).select_related("event").prefetch_related("tries")
        return [door_of(each) for each in deliveries.order_by("id")]


@transaction.atomic
def remove_deliveries(found: QuerySet[Delivery]) -> None:
    """Remove deliveries with their attempts.

    They are locked first: an attempt that is written down meanwhile would outlive the delivery that it belongs to.
    """
    ids = list(found.select_for_update().order_by("pk").values_list("pk", flat=True))
    DeliveryAttempt.objects.filter(delivery__in=ids).delete()
    Delivery.objects.filter(pk__in=ids).delete()


def send(deliveries: Sequence[Delivery]) -> None:
    """Write deliveries, and wake those who send them once it is committed."""
    if deliveries:
        Delivery.objects.bulk_create(deliveries)
        transaction.on_commit(lambda: doorbell.ring(QUEUE, len(deliveries), DELIVER))


def webhooks_of(owner_ids: Iterable[int]) -> dict[int, list[Webhook]]:
    """Find the active webhooks of some users. Index: webhook_active."""
    found: dict[int, list[Webhook]] = defaultdict(list)
    for webhook in Webhook.objects.filter(owner__in=owner_ids, is_active=True):
        found[webhook.owner_id].append(webhook)
    return found


def wants(webhook: Webhook, event: Event) -> bool:
    """Tell whether a webhook asked for an event of a job; `job.*` leaves log lines out, which must be named."""
    if webhook.kinds and event.kind not in webhook.kinds:
        return False
    return event.type in webhook.event_types or ("job.*" in webhook.event_types and event.type != EventType.LOG)


def new_delivery(event: Event, job: Job | None, endpoint_id: UUID, url: str, webhook: Webhook | None) -> Delivery:
    """Make a delivery that is due at once."""
    return Delivery(
        endpoint_id=endpoint_id,
        webhook=webhook,
        is_callback=webhook is None,
        url=url,
        event=event,
        job=job,
        created_at=event.at,
        next_attempt_at=event.at,
    )


def door_of(delivery: Delivery) -> dict[str, Any]:
    """Tell what a job's page shows of a delivery."""
    tries = sorted(delivery.tries.all(), key=lambda each: each.number)
    last = tries[-1] if tries else None
    match delivery.status:
        case DeliveryStatus.DELIVERED:
            state = "delivered"
        case DeliveryStatus.FAILED:
            state = "failed"
        case _:
            state = "retrying" if tries else "waiting"
    detail = ""
    if last and state == "delivered":
        detail = f"{last.duration_seconds * 1000:.0f} ms"
    elif last:
        detail = str(last.status_code or last.error_code)
    return {
        "sequence": delivery.event.sequence,
        "door": "webhook",
        "to": urlsplit(delivery.url).hostname or "",
        "state": state,
        "detail": detail,
        "tries": len(tries),
        "next_attempt_at": delivery.next_attempt_at,
    }
