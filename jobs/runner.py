"""A worker at work: answers a bell by claiming and running what is due.

The handler runs in the thread that Celery gave. Its `Hand` claims and writes ends, short jobs by the handful; beside it
the process's `Guard` looks after what runs.
"""

from __future__ import annotations

import logging
import time

from jobs import lifecycle
from jobs.guard import guard
from jobs.hand import Hand
from jobs.models import Worker
from jobs.pace import Pace
from jobs.process import Seat, is_stopping, this_process
from jobs.scribe import scribe

logger = logging.getLogger(__name__)

HOLD_SECONDS = 10.0
"""How long one bell keeps a worker claiming."""

_pace = Pace()


def work(queue: str) -> int:
    """Claim and run jobs of a queue until none is due or the time of one bell is over.

    Returns:
        How many were run.
    """
    watchman, end_at = guard(), time.monotonic() + HOLD_SECONDS
    process = this_process()
    hand = Hand(queue, process, _pace, watchman.news, scribe().follow if process.slots == 1 else None)
    with watchman.watching(hand):
        while job := hand.next(may_claim=time.monotonic() < end_at and not is_stopping()):
            hand.play(job)
    return hand.played


def begin(*, queues: list[str], slots: int, can_exit: bool, seat: int | None = None) -> None:
    """Introduce this process when its worker starts, and take back what a child that was killed in its place held.

    Args:
        queues: those that it hears.
        slots: how many jobs it runs at once.
        can_exit: whether ending this process ends one job only.
        seat: a prefork child's place in its pool.
    """
    process = this_process()
    process.queues, process.slots, process.can_exit = queues, slots, can_exit
    if seat is not None:
        process.seat = Seat(seat)
        left = process.seat.take(process.id)
        if left:
            count = lifecycle.rescue_worker(left.worker, left.running, queues)
            logger.warning("The worker process before this one was lost; %d jobs are taken back", count)
    guard()


def end() -> None:
    """Take this process off the list when its worker ends in good order."""
    process = this_process()
    if process.seat:
        process.seat.leave()
    Worker.objects.filter(id=process.id).delete()
