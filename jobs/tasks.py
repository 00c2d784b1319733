"""The Celery side of the jobs room: the bell's task, and what a worker process does when it starts and ends."""

from __future__ import annotations

import logging
from typing import Any

from billiard import current_process
from celery import current_app, shared_task, signals

from jobs import doorbell, process, runner
from jobs.builtin import HAS_FFMPEG

logger = logging.getLogger(__name__)


@shared_task(name=doorbell.WORK)
def work(queue: str) -> int:
    """Answer a bell: run what is due on a queue."""
    return runner.work(queue)


@signals.worker_process_init.connect
def begin_in_child(**_: Any) -> None:
    """Introduce a prefork child, which runs one job at a time and may be ended alone."""
    place = current_process().index  # type: ignore[attr-defined]  # a pool numbers its children
    seat = place if place < process.SEATS else None
    runner.begin(queues=list(current_app.amqp.queues.consume_from), slots=1, can_exit=True, seat=seat)


@signals.worker_process_shutdown.connect
def end_in_child(**_: Any) -> None:
    runner.end()


@signals.worker_shutting_down.connect
def stop_claiming(**_: Any) -> None:
    """Let running jobs end for a while, and have those put back that don't."""
    process.tell_to_stop()


@signals.worker_ready.connect
def tell_what_is_missing(**_: Any) -> None:
    """Say once at the start which kind isn't offered, and what would bring it."""
    if not HAS_FFMPEG and "default" in current_app.amqp.queues.consume_from:
        logger.info("video.transcode isn't offered; the extra `video` (pip install 'kabar[video]') brings its ffmpeg")


@signals.worker_ready.connect
def begin_in_worker(sender: Any, **_: Any) -> None:
    """Introduce a worker whose pool lives in this process."""
    if sender.pool.__module__ != "celery.concurrency.prefork":
        runner.begin(queues=list(current_app.amqp.queues.consume_from), slots=sender.pool.limit, can_exit=False)
