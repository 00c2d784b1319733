"""Celery as it comes: no Django, no results, its own defaults, a database of Valkey's own."""

from __future__ import annotations

import os
from functools import cache

import redis
import requests
from celery import Celery

BROKER = os.environ["REDIS_URL"].removesuffix("/0") + "/1"

# Not the current app: a program that also rings Kabar's bells imports this one for `delay` alone.
app = Celery("alone", broker=BROKER, set_as_current=False, fixups=[])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="bench.noop")
def noop() -> None:
    """Do nothing."""


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


@cache
def _valkey(pid: int) -> redis.Redis:
    return redis.Redis.from_url(BROKER)


@cache
def _session(pid: int) -> requests.Session:
    return requests.Session()
