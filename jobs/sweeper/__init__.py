"""The sweeper's duties: each finds by a query on an index what a crash, a flush or a lost message left behind.

One file a duty, with its interval and batch as named constants. Two sweepers at once do no harm: rows are locked and
guarded, and whoever comes second finds nothing. `manage.py sweep` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Something to do again and again."""

    name: str
    interval_seconds: float
    sweep: Callable[[], int]
    """Does a round and says how much there was to do."""
    waits_after_outage: bool = False
    """Whether it must leave workers the time of a lease to beat again after the database was away."""


_duties: list[Duty] = []


def register(duty: Duty) -> None:
    """Add a duty; called once, when its app is ready."""
    _duties.append(duty)


def duties() -> list[Duty]:
    """List all duties, in the order they are done."""
    return _duties
