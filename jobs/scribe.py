"""Writes while a handler runs, so that its thread goes from one job to the next without waiting for the disk.

For kinds that take between a few and some hundred milliseconds: what has ended is written down behind the back of the
next run, and shortly before that one's likely end what comes after it is reserved. Shorter ones go by the handful, and
longer ones hardly notice the pause. One thread a prefork child; where a worker runs jobs in threads, others run
meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import cache

from django.db import DatabaseError, InterfaceError, connection

from jobs.hand import Hand, Run, wait_briefly
from jobs.pace import BRISK_SECONDS, QUICK_SECONDS

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.002
"""What is over sooner is over before anything is written."""
AHEAD_SECONDS = 0.015
"""So long before the likely end of a run its successor is reserved: what that takes on a busy database."""


@cache
def scribe() -> Scribe:
    """Give this process its scribe, started on first use."""
    writer = Scribe()
    writer.start()
    return writer


os.register_at_fork(after_in_child=scribe.cache_clear)


class Scribe(threading.Thread):
    """Follows the runs of one hand."""

    def __init__(self) -> None:
        super().__init__(name="scribe", daemon=True)
        self._news = threading.Condition()
        self._begun: tuple[Hand, Run] | None = None
        self._is_closed = False

    def close(self) -> None:
        """End the thread and its connection."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        self.join()

    def follow(self, hand: Hand, run: Run) -> bool:
        """Take note of a run that begins, and tell whether anything will be done while it lasts."""
        if run.expected is None or not SHORTEST_SECONDS <= run.expected <= BRISK_SECONDS:
            return False
        with self._news:
            self._begun = hand, run
            self._news.notify()
        return True

    def run(self) -> None:
        wait_briefly()
        while begun := self._next():
            hand, run = begun
            try:
                self._see_through(hand, run)
            except (DatabaseError, InterfaceError):  # the hand's own thread tries again, and says what can't be written
                logger.warning("%s %s: nothing was written meanwhile", run.job.kind, run.job.id, exc_info=True)
                connection.close()
            except Exception:
                logger.exception("The scribe stumbled")
        connection.close()

    def _next(self) -> tuple[Hand, Run] | None:
        with self._news:
            self._news.wait_for(lambda: self._begun or self._is_closed)
            begun, self._begun = self._begun, None
            return None if self._is_closed else begun

    def _see_through(self, hand: Hand, run: Run) -> None:
        expected = run.expected or 0.0
        if expected > QUICK_SECONDS:
            hand.write_down(run)
        if self._is_still_time_at(run.began_at + expected - AHEAD_SECONDS):
            hand.reserve_ahead(run)

    def _is_still_time_at(self, moment: float) -> bool:
        """Wait for a moment; False if another run begins before."""
        with self._news:
            return not self._news.wait_for(lambda: self._begun or self._is_closed, max(0.0, moment - time.monotonic()))
