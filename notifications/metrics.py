"""What this room counts, and what stands in it, for `GET /metrics`; `jobs.metrics` says how."""

from __future__ import annotations

from django.db import transaction
from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from jobs.metrics import harmless
from notifications.models import Delivery, DeliveryStatus, Webhook

MOST = 100_000
"""Deliveries that wait are counted up to here."""
MOST_DISABLED = 1000

ATTEMPTS = Counter("kabar_webhook_attempts", "Attempts to deliver, by what came of them.", ["outcome"])
DURATION = Histogram(
    "kabar_webhook_attempt_duration_seconds",
    "How long attempts took.",
    ["outcome"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
FINISHED = Counter("kabar_webhook_deliveries_finished", "Deliveries made, or given up.", ["status"])


@harmless
def count_attempt(status: str | None, seconds: float) -> None:
    """Count an attempt that is written down.

    Args:
        status: what the delivery ended as; None where another attempt follows.
        seconds: how long it took.
    """
    outcome = (status or "retry").lower()
    ATTEMPTS.labels(outcome).inc()
    DURATION.labels(outcome).observe(seconds)
    if status:
        FINISHED.labels(outcome).inc()


def count_given_up(number: int) -> None:
    """Count deliveries that are given up because their webhook is disabled, once that is committed."""
    if number:
        transaction.on_commit(lambda: _count_given_up(number))


@harmless
def _count_given_up(number: int) -> None:
    FINISHED.labels(DeliveryStatus.FAILED.lower()).inc(number)


def of_webhooks() -> list[Metric]:
    """Ask what waits and what is disabled. Index: delivery_due."""
    waiting = Delivery.objects.filter(status=DeliveryStatus.PENDING).values("endpoint")
    disabled = Webhook.objects.filter(is_active=False).exclude(disabled_reason="")
    return [
        GaugeMetricFamily(
            "kabar_webhook_deliveries_pending",
            f"Deliveries that wait for their next attempt; at most {MOST}.",
            value=waiting[:MOST].count(),
        ),
        GaugeMetricFamily(
            "kabar_webhooks_disabled",
            f"Webhooks that Kabar has disabled; at most {MOST_DISABLED}.",
            value=disabled[:MOST_DISABLED].count(),
        ),
    ]
