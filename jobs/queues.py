"""Pausing a queue: none of its jobs is claimed until it is resumed. What runs goes on, what comes waits in line."""

from __future__ import annotations

from jobs import doorbell
from jobs.models import PausedQueue
from jobs.sql import statements


def pause(name: str, by: str) -> bool:
    """Have workers claim nothing more of a queue; they obey at their next claim.

    Args:
        name: the queue's.
        by: who asks, for people.

    Returns:
        Whether it wasn't paused before.
    """
    defaults = {"paused_at": statements().now(), "paused_by": by}
    return PausedQueue.objects.get_or_create(name=name, defaults=defaults)[1]


def resume(name: str) -> bool:
    """Have workers claim again.

    Returns:
        Whether it was paused.
    """
    was_paused = bool(PausedQueue.objects.filter(name=name).delete()[0])
    if was_paused:
        doorbell.ring_on_commit(name, doorbell.MOST_BELLS)
    return was_paused
