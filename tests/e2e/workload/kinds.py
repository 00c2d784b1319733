"""What the outside tests have Kabar run. Each run leaves a line in `runs.txt` of the data folder."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from rest_framework import serializers

from jobs.context import Context
from jobs.kinds import kind
from jobs.models import Job

STEPS = 20


class ShortParams(serializers.Serializer[Any]):
    seconds = serializers.FloatField(default=0)
    kills = serializers.BooleanField(default=False, help_text="Whether its first attempt ends the process it runs in.")


class LongParams(serializers.Serializer[Any]):
    seconds = serializers.FloatField(default=1)


def note_run(context: Context) -> None:
    """Write down that a handler began: which job's, in which process, when."""
    line = f"{context.job_id} {os.getpid()} {time.time()}\n"
    file = os.open(settings.DATA / "runs.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@kind("work.short", params=ShortParams)
def short(context: Context, params: dict[str, Any]) -> int:
    """Be done at once, or kill the process in the middle."""
    note_run(context)
    if params["kills"] and context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(params["seconds"])
    return os.getpid()


@kind("work.in_threads", params=LongParams, queue="threads")
def in_threads(context: Context, params: dict[str, Any]) -> int:
    """Report progress for a while, in a worker of its own queue."""
    note_run(context)
    for step in range(STEPS):
        time.sleep(params["seconds"] / STEPS)
        context.progress(current=step + 1, total=STEPS)
    return os.getpid()


@kind("work.async_in_threads", params=LongParams, queue="threads")
async def async_in_threads(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """The same as a coroutine, which looks at its own row."""
    await sync_to_async(note_run)(context)
    for step in range(STEPS):
        await asyncio.sleep(params["seconds"] / STEPS)
        context.progress(current=step + 1, total=STEPS)
    job = await Job.objects.aget(pk=context.job_id)
    return {"pid": os.getpid(), "status": job.status}


@kind("work.elsewhere", params=ShortParams, queue="elsewhere")
def elsewhere(context: Context, params: dict[str, Any]) -> int:
    """Run where its kind says."""
    note_run(context)
    return os.getpid()
