"""Fails jobs that waited too long to begin."""

from jobs import lifecycle

INTERVAL_SECONDS = 1.0
BATCH = 200


def sweep() -> int:
    """Expire a batch of pending jobs past their `startWithin` or `deadline`."""
    return lifecycle.expire(BATCH)
