"""Sends what is due: an endpoint is taken whole by one process for a lease, and its deliveries go out one by one.

So a dead endpoint holds up one thread and no more, and its limit is a local matter. The lease is the acknowledgement:
an endpoint whose owner died is free again when it runs out, and what was being sent goes out once more under the same
`webhook-id`.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Prefetch, Q, QuerySet

from jobs.models import Artifact
from jobs.process import is_stopping
from jobs.sql import statements
from notifications import destinations, metrics
from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus, Endpoint, Webhook
from notifications.webhooks import envelope
from notifications.webhooks.answer import Answer
from notifications.webhooks.egress import Sender
from notifications.webhooks.schedule import Verdict, next_attempt, verdict
from notifications.webhooks.secrets import SecretUnreadable, signing_secrets
from notifications.webhooks.signing import signed_headers

logger = logging.getLogger(__name__)

HOLD_SECONDS = 10.0
"""How long an endpoint with more and more to send keeps its thread, before another one has its turn."""
LEASE_SECONDS = 30
"""Longer than a hold and the exchange that begins at its end, of 15 s at most: it need not be renewed."""


def deliver() -> int:
    """Take one due endpoint after another and send what it is owed, until none is due.

    Returns:
        How many attempts were made.
    """
    sent = 0
    while not is_stopping() and (endpoint := take()):
        sent += serve(endpoint)
    return sent


def due_endpoints(now: datetime) -> QuerySet[Endpoint]:
    """Find endpoints that are owed something and that nobody serves. Index: delivery_due."""
    owed = Delivery.objects.filter(endpoint=OuterRef("pk"), status=DeliveryStatus.PENDING, next_attempt_at__lte=now)
    is_free = Q(owned_until__isnull=True) | Q(owned_until__lt=now)
    is_closed = Q(open_until__isnull=True) | Q(open_until__lte=now)
    return Endpoint.objects.filter(is_free, is_closed, Exists(owed))


def take() -> Endpoint | None:
    """Become the owner of an endpoint that is due, the one that was served longest ago."""
    with transaction.atomic():
        now = statements().now()
        found = due_endpoints(now).select_for_update(skip_locked=True, of=("self",))
        endpoint = found.order_by(F("owned_until").asc(nulls_first=True)).first()
        if endpoint is None:
            return None
        endpoint.owner, endpoint.owned_until = uuid4(), now + timedelta(seconds=LEASE_SECONDS)
        endpoint.save(update_fields=["owner", "owned_until"])
    return endpoint


def serve(endpoint: Endpoint) -> int:
    """Send what an owned endpoint is owed, oldest first, and let it go.

    Returns:
        How many attempts were made.
    """
    sent, end_at = 0, time.monotonic() + HOLD_SECONDS
    try:
        while time.monotonic() < end_at and not is_stopping():
            delivery = next_delivery(endpoint)
            if delivery is None:
                break
            attempt(delivery)
            sent += 1
    finally:
        Endpoint.objects.filter(pk=endpoint.pk, owner=endpoint.owner).update(owner=None, owned_until=statements().now())
    return sent


def next_delivery(endpoint: Endpoint) -> Delivery | None:
    """Find what an endpoint is owed first. Index: delivery_due."""
    files = Prefetch("event__job__artifacts", Artifact.objects.order_by("id"))
    return (
        Delivery.objects.filter(
            endpoint=endpoint, status=DeliveryStatus.PENDING, next_attempt_at__lte=statements().now()
        )
        .order_by("next_attempt_at", "id")
        .select_related("webhook", "event__job", "event__batch", "endpoint")
        .prefetch_related(files)
        .first()
    )


def attempt(delivery: Delivery) -> None:
    """Make one attempt and write down what came of it."""
    begun = statements().now()
    if delivery.webhook is None and not delivery.is_callback:
        forget(delivery)
        return
    try:
        secrets = signing_secrets(delivery, begun)
    except SecretUnreadable as error:
        unsent = Answer(status_code=None, duration_seconds=0.0, error_code=error.code, error=error.message)
        record(delivery, begun, unsent)
        return
    body = envelope.body_of(delivery.event)
    headers = signed_headers(
        secrets=secrets,
        event_id=str(envelope.id_of(delivery.event)),
        sent_at=begun,
        body=body,
        version=settings.VERSION,
    )
    answer = sender(os.getpid()).post(delivery.url, body, headers)
    record(delivery, begun, answer)


def record(delivery: Delivery, begun: datetime, answer: Answer) -> None:
    """Write an attempt down; one that somebody else made meanwhile stands."""
    number = delivery.attempts + 1
    with transaction.atomic():
        now = statements().now()
        changes = _next_state(delivery, number, now, answer)
        guard = Delivery.objects.filter(pk=delivery.pk, status=DeliveryStatus.PENDING, attempts=delivery.attempts)
        if not guard.update(attempts=number, **changes):
            return
        if delivery.webhook_id and verdict(answer) == Verdict.GONE:
            disable(delivery.webhook_id, "The receiver answered 410 Gone.")
        DeliveryAttempt.objects.create(
            delivery=delivery,
            number=number,
            at=begun,
            duration_seconds=answer.duration_seconds,
            status_code=answer.status_code,
            answer_start=answer.body_start.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            error_code=answer.error_code or "",
            error=answer.error or "",
        )
    metrics.count_attempt(changes.get("status"), answer.duration_seconds)
    logger.info(
        "delivery %s: attempt %d to %s: %s",
        delivery.pk,
        number,
        delivery.endpoint.host,
        answer.status_code or answer.error_code,
    )


def _next_state(delivery: Delivery, number: int, now: datetime, answer: Answer) -> dict[str, Any]:
    match verdict(answer):
        case Verdict.DELIVERED:
            return {"status": DeliveryStatus.DELIVERED, "finished_at": now, "next_attempt_at": None}
        case Verdict.GONE:
            return {"status": DeliveryStatus.FAILED, "finished_at": now, "next_attempt_at": None}
        case Verdict.RETRY:
            again = next_attempt(number, now, answer.retry_after_seconds)
            if again is None:
                return {"status": DeliveryStatus.FAILED, "finished_at": now, "next_attempt_at": None}
            return {"next_attempt_at": again}


def forget(delivery: Delivery) -> None:
    """Drop a delivery whose webhook was deleted while it waited."""
    Delivery.objects.filter(pk=delivery.pk, status=DeliveryStatus.PENDING).delete()


def disable(webhook_id: UUID, reason: str) -> None:
    """Send nothing more to a webhook until its owner turns it on again; what waits for it fails."""
    Webhook.objects.filter(pk=webhook_id).update(is_active=False, disabled_reason=reason)
    given_up = Delivery.objects.filter(webhook=webhook_id, status=DeliveryStatus.PENDING).update(
        status=DeliveryStatus.FAILED, finished_at=statements().now(), next_attempt_at=None
    )
    metrics.count_given_up(given_up)


@cache
def sender(pid: int) -> Sender:
    """Give this process its way out; connections don't outlive a fork."""
    return Sender(allow=destinations.allow_list())
