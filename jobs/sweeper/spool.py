"""Writes down what workers of this host kept on the disk while the database was away."""

from jobs import spool

INTERVAL_SECONDS = 1.0


def sweep() -> int:
    """Write down all that is kept."""
    return spool.write_down()
