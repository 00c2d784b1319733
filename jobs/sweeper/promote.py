"""Makes jobs claimable whose time has come, and rings for them."""

from jobs import doorbell, lifecycle

INTERVAL_SECONDS = 1.0
BATCH = 1000


def sweep() -> int:
    """Promote a batch of scheduled and retried jobs."""
    due = lifecycle.promote(BATCH)
    for queue, count in due.items():
        doorbell.ring(queue, count)
    return sum(due.values())
