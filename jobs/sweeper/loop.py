"""Runs the duties for ever: `manage.py sweep`."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

from django.db import DatabaseError, InterfaceError, connection

from jobs import doorbell, metrics
from jobs.lifecycle import LEASE_SECONDS
from jobs.sweeper import Duty, duties, presence

logger = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
"""A duty that takes longer hangs: the process ends itself, and its supervisor starts it again."""
PAUSE_SECONDS = 1.0
FIRST_RESCUE_SECONDS = 10.0
"""Two beats of a worker."""
OUTAGE_SECONDS = 5.0
"""A duty that took so long met a database that stood still."""


class Sweeper:
    """Does each duty at its interval until it is told to stop."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._next = {each.name: 0.0 for each in duties()}
        # Who comes up after an outage doesn't know of it: workers have the time to beat first.
        self._not_before = time.monotonic() + FIRST_RESCUE_SECONDS
        self._busy_since: float | None = None

    def stop(self) -> None:
        """End after the duty in hand."""
        self._stopped.set()

    def run(self) -> None:
        """Sweep until stopped."""
        threading.Thread(target=self._watch_over, name="watchdog", daemon=True).start()
        while not self._stopped.is_set():
            for duty in duties():
                if time.monotonic() >= self._next[duty.name] and not self._stopped.is_set():
                    self._do(duty)
            self._stopped.wait(max(0.0, min(self._next.values()) - time.monotonic()))
        doorbell.flush(1.0)
        with suppress(DatabaseError, InterfaceError):
            presence.leave()

    def _do(self, duty: Duty) -> None:
        now = time.monotonic()
        self._next[duty.name] = now + duty.interval_seconds
        if duty.waits_after_outage and now < self._not_before:
            return
        self._busy_since, has_succeeded = now, False
        try:
            done = duty.sweep()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s: the database is away (%s)", duty.name, type(error).__name__)
            connection.close()
            self._not_before = time.monotonic() + LEASE_SECONDS
        except Exception:
            logger.exception("%s stumbled; the other duties go on", duty.name)
        else:
            has_succeeded = True
            if done:
                logger.info("%s: %d", duty.name, done)
            if time.monotonic() - now > OUTAGE_SECONDS:  # it stood still, and so did the workers' beats
                self._not_before = time.monotonic() + LEASE_SECONDS
        finally:
            self._busy_since = None
            metrics.count_round(duty.name, time.monotonic() - now, has_succeeded=has_succeeded)

    def _watch_over(self) -> None:
        while not self._stopped.wait(PAUSE_SECONDS):
            since = self._busy_since
            if since and time.monotonic() - since > ROUND_SECONDS:
                logger.critical("A round took over %.0f s: ending this process", ROUND_SECONDS)
                os._exit(70)
