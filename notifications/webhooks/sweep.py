"""Rings for deliveries that are due: their time has come, their bell was lost, or their sender died."""

from jobs import doorbell
from jobs.sql import statements
from notifications.listener import DELIVER, QUEUE
from notifications.webhooks.dispatch import due_endpoints

INTERVAL_SECONDS = 1.0
MOST = 16
"""As many threads as the webhook worker has by default."""


def sweep() -> int:
    """Ring once for each due endpoint, up to a limit."""
    count = due_endpoints(statements().now())[:MOST].count()
    if count:
        doorbell.ring(QUEUE, count, DELIVER)
    return count
