"""Takes back jobs whose worker is lost."""

from jobs import lifecycle

INTERVAL_SECONDS = 1.0
BATCH = 200


def sweep() -> int:
    """Rescue a batch of jobs whose lease ran out."""
    return lifecycle.rescue(BATCH)
