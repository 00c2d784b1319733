"""Tells workers that there is work: a Celery message that says no more than which queue to look at.

A lost message costs a delay until the sweeper rings again; a doubled one costs an indexed query. The rings of one queue
merge while they wait, and a closed broker is met in the courier's thread, never by a submission.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

from amqp.exceptions import ChannelError
from celery import current_app
from django.db import transaction
from kombu import Connection

from jobs.courier import Courier

WORK = "jobs.work"
"""The task that a bell starts."""

MOST_BELLS = 8
"""A worker that is rung claims one job after another, so a thousand submissions need few bells."""
COUNT_SECONDS = 1.0
"""How long the unanswered bells of a queue needn't be counted again."""


def ring(queue: str, count: int = 1, task: str = WORK) -> None:
    """Wake workers of a queue.

    Args:
        queue: whose workers.
        count: how many jobs are due; at most `MOST_BELLS` bells go out.
        task: the Celery task to start with the queue's name.
    """
    _courier.send((task, queue), count)


def ring_on_commit(queue: str, count: int = 1) -> None:
    """Wake workers of a queue once the transaction is committed that has jobs become due."""
    transaction.on_commit(lambda: ring(queue, count))


def flush(timeout_seconds: float) -> bool:
    """Wait until all bells are out; False if the time passed first."""
    return _courier.flush(timeout_seconds)


@cache
def _connection() -> Connection:
    """Make a connection of its own: `broker_transport_options` holds for the whole app, and a hung broker must be
    noticed within about a second."""
    return current_app.connection_for_write(
        transport_options={
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            "max_retries": 0,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        }
    )


os.register_at_fork(after_in_child=_connection.cache_clear)


def unanswered(queue: str) -> int:
    """Count the bells that wait in a queue: more of them would wake nobody, and pile up where no worker lives."""
    try:
        channel: Any = _connection().default_channel
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except ChannelError:  # there is no such queue yet
        return 0


@dataclass
class Burst:
    """What was rung on a queue since its unanswered bells were counted last."""

    counted_at: float = 0.0
    rung: int = MOST_BELLS

    def needed(self, queue: str, count: int) -> int:
        """Say how many bells should go out for so many jobs; the first few a second go without counting."""
        now = time.monotonic()
        if self.rung < MOST_BELLS and now - self.counted_at < COUNT_SECONDS:
            return min(count, MOST_BELLS)
        waiting = unanswered(queue)
        self.counted_at, self.rung = now, waiting
        return max(0, min(count, MOST_BELLS) - waiting)


_bursts: defaultdict[str, Burst] = defaultdict(Burst)


def _publish(rings: dict[tuple[str, str], int]) -> None:
    for (task, queue), count in rings.items():
        burst = _bursts[queue]
        bells = burst.needed(queue, count)
        for _ in range(bells):
            current_app.send_task(task, args=[queue], queue=queue, connection=_connection(), retry=False)
        burst.rung += bells


_courier: Courier[tuple[str, str], int] = Courier("doorbell", _publish, lambda one, other: one + other, keep=False)
