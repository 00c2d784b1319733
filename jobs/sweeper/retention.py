"""Removes finished jobs that have had their time, with their files, in batches that nobody waits for.

On SQLite a batch holds the lock of the only writer, so it is as large as can be removed in a few hundredths of a
second, and whoever wants to write gets in between two of them. Once a minute it looks on through the tables of
artifacts and batches, a page each, for those that nobody needs any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from django.db import transaction

from jobs import retention
from jobs.garbage import uncollected
from jobs.retention import Looked
from jobs.sql import statements

INTERVAL_SECONDS = 1.0
ROUND_SECONDS = 0.5
"""Other duties wait so long at most; what is left then is for the next round."""
LARGEST_ROUND = 5000
BATCH_SECONDS = 0.05
SMALLEST_BATCH, LARGEST_BATCH = 10, 500

LOOK_INTERVAL_SECONDS = 60.0
PAGE = 500
"""Rows looked at in one look: there may be millions, of which hardly any goes."""
ARTIFACT_LEFT = timedelta(days=1)
"""So long the files of an attempt that failed are there for operators."""


def sweep() -> int:
    """Remove some of what has had its time. Indexes: job_expires, the primary keys of artifacts and batches."""
    return remove_expired() + sum(look.go_on() for look in _looks)


def remove_expired() -> int:
    """Remove as many expired jobs as a round has time for."""
    until = time.monotonic() + ROUND_SECONDS
    ids = retention.expired(statements().now(), LARGEST_ROUND)
    removed, size = 0, SMALLEST_BATCH
    while ids and time.monotonic() < until:
        with uncollected(), transaction.atomic():  # on SQLite it waits for its turn here; that isn't counted
            begun = time.monotonic()
            removed += retention.remove(ids[:size])
        del ids[:size]
        size = next_size(size, time.monotonic() - begun, BATCH_SECONDS)
    return removed


def next_size(size: int, seconds: float, aim: float) -> int:
    """Say how many jobs to remove next, if `size` of them took so long and it should take `aim` seconds."""
    fitting = round(size * aim / seconds) if seconds else LARGEST_BATCH
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, 2 * size, fitting))


class Look:
    """Goes through a table for ever, a page at a time.

    Args:
        remove: removes what nobody needs from the page after a row, and tells how far it came.
    """

    def __init__(self, remove: Callable[[UUID | None], Looked]) -> None:
        self._remove = remove
        self._last: UUID | None = None
        self._next_at = 0.0

    def go_on(self) -> int:
        """Look at the next page if it is time; gives how many rows were removed."""
        now = time.monotonic()
        if now < self._next_at:
            return 0
        self._next_at = now + LOOK_INTERVAL_SECONDS
        looked = self._remove(self._last)
        self._last = looked.last
        return looked.removed


def looks() -> Sequence[Look]:
    """Make the looks through all tables, from their beginnings."""
    return (
        Look(lambda last: retention.remove_left_artifacts(statements().now() - ARTIFACT_LEFT, last, PAGE)),
        Look(lambda last: retention.remove_empty_batches(last, PAGE)),
    )


_looks = looks()
