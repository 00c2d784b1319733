"""Tells that a sweeper lives, in the list of workers: `/readyz` asks for it, on whichever host that is."""

from functools import cache

from jobs.models import Worker
from jobs.process import SEEN_SECONDS, Process

INTERVAL_SECONDS = SEEN_SECONDS


@cache
def this_sweeper() -> Process:
    """Give this process its identity as a sweeper."""
    return Process(slots=0)


def sweep() -> int:
    """Write down that it lives: its rounds go on, for this is one of them."""
    this_sweeper().tell_seen()
    return 0


def leave() -> None:
    """Take it off the list when it ends in good order."""
    Worker.objects.filter(id=this_sweeper().id).delete()
