"""Tells of batches that are complete: whoever ended the last job died before it could."""

from jobs import lifecycle

INTERVAL_SECONDS = 15.0
BATCH = 200


def sweep() -> int:
    """Close those that are complete."""
    complete = lifecycle.complete_batches(BATCH)
    return lifecycle.close_batches(complete) if complete else 0
