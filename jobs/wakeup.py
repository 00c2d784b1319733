"""Tells the web processes that there is news: a wake-up over a Channels group, which carries progress too.

It publishes in the channel layer's own format over one kept connection, because `async_to_sync(group_send)` makes a new
event loop and connection each time (django/channels#1018). A lost wake-up costs seconds: every hub reads the log again
by itself.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis
from channels.layers import get_channel_layer
from django.conf import settings

from jobs.courier import Courier

GROUP = "news"
NEWS = ""
"""The key of wake-ups; progress travels under its job's id, so that only the newest waits."""


def tell_news() -> None:
    """Say that new events stand in the log."""
    _courier.send(NEWS, {"type": "news"})


def tell_progress(job_id: str, message: dict[str, Any]) -> None:
    """Carry a job's newest progress to those who watch it.

    Args:
        job_id: whose.
        message: what the hub needs: `job`, `owner`, `team`, `sequence`, `version`, and the `envelope` as JSON.
    """
    _courier.send(job_id, {"type": "progress", **message})


def forget_progress(job_id: str) -> None:
    """Hold back a job's progress that hasn't gone out yet: its end is about to be told."""
    _courier.drop(job_id)


def tell_changed(job_id: str) -> None:
    """Say that a job shows something new that is no event: who holds an answer back should look again."""
    _courier.send(f"changed {job_id}", {"type": "changed", "job": job_id})


def flush(timeout_seconds: float) -> bool:
    """Wait until all hints are out; False if the time passed first."""
    return _courier.flush(timeout_seconds)


@cache
def _connection() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5)


os.register_at_fork(after_in_child=_connection.cache_clear)


def _publish(_key: str, message: dict[str, Any]) -> None:
    channel = f"{settings.CHANNEL_PREFIX}__group__{GROUP}"
    _connection().publish(channel, get_channel_layer().serialize(message))


_courier: Courier[str, dict[str, Any]] = Courier("wakeup", _publish, lambda _standing, newer: newer, keep=True)
