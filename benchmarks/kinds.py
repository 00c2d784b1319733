"""What the benchmarks have Kabar run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rest_framework import serializers

from jobs.context import Context
from jobs.kinds import UploadField, kind
from jobs.models import Job, Status
from jobs.process import this_process

STOPPED = "stopped"
"""The file in which `bench.stopping` leaves the number of the process that it has halted."""


@kind("bench.noop")
def noop(context: Context, params: dict[str, Any]) -> None:
    """Do nothing."""


# Each a kind of its own, for the size of a hand goes by what a kind took lately.
@kind("bench.sleep_1ms")
def sleep_1ms(context: Context, params: dict[str, Any]) -> None:
    """Take one millisecond."""
    time.sleep(0.001)


@kind("bench.sleep_10ms")
def sleep_10ms(context: Context, params: dict[str, Any]) -> None:
    """Take ten milliseconds."""
    time.sleep(0.01)


@kind("bench.sleep_100ms")
def sleep_100ms(context: Context, params: dict[str, Any]) -> None:
    """Take a tenth of a second."""
    time.sleep(0.1)


@kind("bench.probe")
def probe(context: Context, params: dict[str, Any]) -> float:
    """Tell when the handler began, in seconds since 1970."""
    return time.time()


class UploadParams(serializers.Serializer[Any]):
    """A file."""

    file = UploadField()


@kind("bench.upload", params=UploadParams)
def upload(context: Context, params: dict[str, Any]) -> None:
    """Do nothing with a file."""


class UnevenParams(serializers.Serializer[Any]):
    """How long one job takes, which nobody knows beforehand."""

    seconds = serializers.FloatField()


@kind("bench.uneven", params=UnevenParams)
def uneven(context: Context, params: dict[str, Any]) -> list[float]:
    """Take as long as asked; tell in which process, and from when to when, in seconds since 1970."""
    began_at = time.time()
    time.sleep(params["seconds"])
    return [os.getpid(), began_at, time.time()]


class StoppingParams(serializers.Serializer[Any]):
    """Which job this is, and when it halts its process."""

    folder = serializers.CharField()
    number = serializers.IntegerField()
    stops_at = serializers.IntegerField(help_text="if so many jobs or more are in its worker's hand; 0: never")


@kind("bench.stopping", params=StoppingParams)
def stopping(context: Context, params: dict[str, Any]) -> int:
    """Note that this job runs, then perhaps halt its process (SIGSTOP), if no other one of its folder has done so."""
    folder, own = Path(params["folder"]), os.getpid()
    with (folder / f"runs.{own}").open("a") as runs:
        runs.write(f"{params['number']}\n")
    if params["stops_at"] and not (folder / STOPPED).exists() and count_hand() >= params["stops_at"]:
        with suppress(FileExistsError), (folder / STOPPED).open("x") as file:
            file.write(str(own))
            file.flush()
            os.kill(own, signal.SIGSTOP)
    return own


def count_hand() -> int:
    """Count the jobs that the database knows to be in this worker's hand and not begun. Index: job_claim."""
    in_line = Job.objects.filter(status=Status.PENDING, ready_at__isnull=False, queue="default")
    return in_line.filter(worker=this_process().id).count()


class ReportsParams(serializers.Serializer[Any]):
    """How often a loop goes round, and whether it tells of it each time."""

    rounds = serializers.IntegerField()
    reports = serializers.BooleanField()


@kind("bench.reports", params=ReportsParams)
def reports(context: Context, params: dict[str, Any]) -> float:
    """Count, and tell how many seconds that took."""
    total = params["rounds"]
    begun = time.perf_counter()
    if params["reports"]:
        for number in range(total):
            context.progress(message="Counting", current=number, total=total)
    else:
        for _ in range(total):
            pass
    return time.perf_counter() - begun


class TickingParams(serializers.Serializer[Any]):
    """For how long to tick, and whether to tell of each tick."""

    seconds = serializers.FloatField()
    reports = serializers.BooleanField()


TICK_SECONDS = 0.1


@kind("bench.ticking", params=TickingParams, queue="threads")
def ticking(context: Context, params: dict[str, Any]) -> None:
    """Sleep a tenth of a second again and again."""
    total = round(params["seconds"] / TICK_SECONDS)
    for number in range(total):
        time.sleep(TICK_SECONDS)
        if params["reports"]:
            context.progress(message="Ticking", current=number, total=total)
