"""`demo.countdown`: a job that takes as long as you like and fails when you ask it to."""

from __future__ import annotations

import time
from typing import Any

from rest_framework import serializers

from jobs.context import Context
from jobs.failures import JobFailure
from jobs.kinds import kind


class CountdownParams(serializers.Serializer[Any]):
    """How long, in how many steps, and whether it goes well."""

    seconds = serializers.FloatField(default=5, min_value=0, max_value=3600, help_text="How long it takes in all.")
    steps = serializers.IntegerField(
        default=10, min_value=1, max_value=10_000, help_text="How often it reports progress."
    )
    failures = serializers.IntegerField(
        default=0, min_value=0, max_value=100, help_text="How many attempts fail at their end before one goes well."
    )


@kind("demo.countdown", params=CountdownParams, title="Countdown", timeout=4000)
def countdown(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Count down, reporting each step. For trying out the doors."""
    steps = params["steps"]
    for step in range(1, steps + 1):
        pause_until(context, time.monotonic() + params["seconds"] / steps)
        context.progress(message=f"{steps - step} to go", current=step, total=steps)
    if context.attempt <= params["failures"]:
        raise JobFailure("asked_to_fail", f"Attempt {context.attempt} failed, as asked.", retry=True)
    context.log(f"Counted {steps} steps")
    return {"steps": steps, "attempt": context.attempt}


def pause_until(context: Context, end: float) -> None:
    """Sleep until a monotonic time, looking four times a second whether the job was cancelled."""
    while (left := end - time.monotonic()) > 0:
        context.check_cancelled()
        time.sleep(min(left, 0.25))
