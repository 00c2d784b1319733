"""Tells the web processes that there is news: a wake-up over a Channels group, which carries progress too.

It publishes in the channel layer's own format over one kept connection, because `async_to_sync(group_send)` makes a new
event loop and connection each time (django/channels#1018). A lost wake-up costs seconds: every hub reads the log again
by itself.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import redis
from channels.layers import get_channel_layer
from django.conf import settings

from jobs.courier import Courier

GROUP = "news"

Hint = tuple[str, str]
"""What a message is of, and the id of its job: of hints that wait, each job has its newest only."""
NEWS: Hint = ("news", "")


def tell_news() -> None:
    """Say that new events stand in the log."""
    _courier.send(NEWS, {})


def tell_progress(messages: Mapping[str, dict[str, Any]]) -> None:
    """Carry the newest progress of jobs to those who watch them.

    Args:
        messages: by job, what the hub needs: `job`, `owner`, `team`, `sequence`, `version`, and the `envelope` as JSON.
    """
    for job_id, message in messages.items():
        _courier.send(("progress", job_id), message)


def forget_progress(job_id: str) -> None:
    """Hold back a job's progress that hasn't gone out yet: its end is about to be told."""
    _courier.drop(("progress", job_id))


def tell_changed(job_ids: Iterable[str]) -> None:
    """Say that jobs show something new that is no event: who holds an answer back should look again."""
    for job_id in job_ids:
        _courier.send(("changed", job_id), {"job": job_id})


def flush(timeout_seconds: float) -> bool:
    """Wait until all hints are out; False if the time passed first."""
    return _courier.flush(timeout_seconds)


@cache
def _connection() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5)


os.register_at_fork(after_in_child=_connection.cache_clear)


def _publish(hints: dict[Hint, dict[str, Any]]) -> None:
    """Send one message of each type, however many jobs it is of."""
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (kind, _), message in hints.items():
        by_type[kind].append(message)
    layer, channel = get_channel_layer(), f"{settings.CHANNEL_PREFIX}__group__{GROUP}"
    for kind, messages in by_type.items():
        _connection().publish(channel, layer.serialize({"type": kind, "jobs": messages}))


_courier: Courier[Hint, dict[str, Any]] = Courier("wakeup", _publish, lambda _standing, newer: newer, keep=True)
