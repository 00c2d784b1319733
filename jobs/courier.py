"""Carries hints to other processes from a thread of its own, so that no transition ever waits for Redis.

A hint may be lost: it costs a delay, never a result. Hints of one key merge while they wait. The thread is made on
first use and anew after a fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

Key = TypeVar("Key", bound=Hashable)
Hint = TypeVar("Hint")


class Courier(Generic[Key, Hint]):
    """Delivers merged hints, all that wait at once.

    Args:
        name: the thread's name.
        deliver: called in the thread with hints by key; raises where the way is closed.
        merge: makes one hint of two that wait under the same key.
        keep: whether a hint whose delivery failed is tried again until it goes out.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[dict[Key, Hint]], None],
        merge: Callable[[Hint, Hint], Hint],
        *,
        keep: bool,
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._merge = merge
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._waiting: dict[Key, Hint] = {}
        self._news = threading.Condition()
        self._is_out = False
        os.register_at_fork(after_in_child=self._forget)

    def send(self, key: Key, hint: Hint) -> None:
        """Take a hint and return at once."""
        with self._news:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._put(key, hint)
            self._news.notify_all()

    def drop(self, key: Key) -> None:
        """Forget the hint that waits under a key, if any."""
        with self._news:
            self._waiting.pop(key, None)
            self._news.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until nothing is left to carry; False if the time passed first."""
        with self._news:
            return self._news.wait_for(lambda: not self._waiting and not self._is_out, timeout=timeout_seconds)

    def _forget(self) -> None:
        self._thread, self._waiting, self._news, self._is_out = None, {}, threading.Condition(), False

    def _put(self, key: Key, hint: Hint) -> None:
        self._waiting[key] = self._merge(self._waiting[key], hint) if key in self._waiting else hint

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._news:
                self._news.wait_for(lambda: bool(self._waiting))
                hints, self._waiting = self._waiting, {}
                self._is_out = True
            try:
                self._deliver(hints)
            except Exception as error:
                logger.warning(
                    "%s: the way is closed (%s), next try in %.1f s", self._name, type(error).__name__, pause
                )
                self._come_back(hints if self._keep else {})
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                self._come_back({})
                pause = FIRST_PAUSE_SECONDS

    def _come_back(self, undelivered: dict[Key, Hint]) -> None:
        with self._news:
            self._is_out = False
            newer, self._waiting = self._waiting, undelivered
            for key, hint in newer.items():
                self._put(key, hint)
            self._news.notify_all()
