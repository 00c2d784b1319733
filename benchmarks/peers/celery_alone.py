"""Celery as it comes: no Django, no results, its own defaults, a database of Valkey's own."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import redis
import requests
from celery import Celery

BROKER = os.environ["REDIS_URL"].removesuffix("/0") + "/1"
TALLY = Path(os.environ["KABAR_DATA"]) / "celery_alone.tally"
"""Has a byte for each task that has ended. A result that is ignored tells nobody, and this costs microseconds."""

# Not the current app: a program that also rings Kabar's bells imports this one for `delay` alone.
app = Celery("alone", broker=BROKER, set_as_current=False, fixups=[])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="bench.noop")
def noop() -> None:
    """Do nothing."""
    _note_end()


@app.task(name="bench.sleep")
def sleep(seconds: float) -> None:
    """Take so long."""
    time.sleep(seconds)
    _note_end()


@app.task(name="bench.tell")
def tell(key: str) -> None:
    """Say over Valkey that this task has run: a task whose result is ignored can't be waited for otherwise."""
    _valkey(os.getpid()).rpush(key, 1)


@app.task(name="bench.post")
def post(url: str, body: str) -> None:
    """Send a body by a kept `requests` session, unsigned and unrecorded."""
    answer = _session(os.getpid()).post(
        url, data=body.encode(), headers={"Content-Type": "application/json"}, timeout=15
    )
    answer.raise_for_status()


def tasks_ended() -> int:
    """Count the runs of `noop` and `sleep` that have ended, in all processes."""
    return TALLY.stat().st_size if TALLY.exists() else 0


def _note_end() -> None:
    os.write(_tally(os.getpid()), b".")


@cache
def _tally(pid: int) -> int:
    return os.open(TALLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@cache
def _valkey(pid: int) -> redis.Redis:
    return redis.Redis.from_url(BROKER)


@cache
def _session(pid: int) -> requests.Session:
    return requests.Session()
