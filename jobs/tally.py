"""Counts that all processes share, in Redis: for a while, and only as long as Redis answers.

Nobody waits for Redis: where it is away or hangs, whoever finds out has waited half a second at most, and then nobody
asks it for a few seconds. What isn't counted is let through. A client of our own and not Django's cache: that one has a
new pool of connections for each request's thread, and takes three questions where this takes one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 0.25
"""How long to wait for a connection, and then for an answer."""
PAUSE_SECONDS = 5.0
"""How long nobody asks after a failure; then one does, and the others wait for what becomes of it."""

T = TypeVar("T")


class Circuit:
    """Keeps everybody from asking a Redis that doesn't answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ask_again_at: float | None = None
        """None while all is well."""

    def ask(self, question: Callable[[], T]) -> T | None:
        """Ask, unless it failed just now; None where there is no answer."""
        if not self._may_ask():
            return None
        try:
            answer = question()
        except redis.RedisError as error:
            if self._ask_again_at is None:
                logger.warning("Redis doesn't answer, so nothing is counted (%s)", type(error).__name__)
            self._ask_again_at = time.monotonic() + PAUSE_SECONDS
            return None
        self._ask_again_at = None
        return answer

    def _may_ask(self) -> bool:
        with self._lock:
            if self._ask_again_at is None:
                return True
            if time.monotonic() < self._ask_again_at:
                return False
            self._ask_again_at = time.monotonic() + PAUSE_SECONDS  # this one asks, the others still don't
            return True


_circuit = Circuit()


def add(amounts: dict[str, int], seconds: float) -> list[int] | None:
    """Add to counts, and keep each for so long from now.

    Args:
        amounts: by key; 0 only reads.
        seconds: how long the counts are kept.

    Returns:
        The counts as they are now, in the same order; None where Redis is away.
    """

    def question() -> list[int]:
        pipeline = _redis().pipeline(transaction=False)
        for key, amount in amounts.items():
            pipeline.incrby(_named(key), amount)
            pipeline.pexpire(_named(key), round(seconds * 1000))
        return [int(each) for each in pipeline.execute()[::2]]

    return _circuit.ask(question)


def bar(key: str, seconds: float) -> float | None:
    """Bar a key for so long, if it isn't barred yet.

    Returns:
        0 where it wasn't barred and is now; else how many seconds it still is; None where Redis is away.
    """

    def question() -> float:
        pipeline = _redis().pipeline(transaction=False)
        pipeline.set(_named(key), 1, nx=True, px=max(1, round(seconds * 1000)))
        pipeline.pttl(_named(key))
        is_new, left = pipeline.execute()
        return 0.0 if is_new else max(int(left), 1) / 1000

    return _circuit.ask(question)


def forget(*keys: str) -> None:
    """Forget counts and bars."""
    _circuit.ask(lambda: _redis().delete(*map(_named, keys)))


def _named(key: str) -> str:
    return f"{settings.CHANNEL_PREFIX}:{key}"


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
