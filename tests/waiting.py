"""Waiting for a condition with a deadline: the only way in which a test may let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

PAUSE_SECONDS = 0.02


def wait_until(condition: Callable[[], Value], timeout_seconds: float = 10.0, describe: str = "") -> Value:
    """Ask `condition` again and again until it holds.

    Args:
        condition: called every 20 ms; any true value ends the wait.
        timeout_seconds: how long to wait at most.
        describe: what is waited for, for the message of a failure.

    Returns:
        The first true value of the condition.

    Raises:
        AssertionError: the time passed; the message carries the condition's last value.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            what = describe or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"waited {timeout_seconds:g} s for {what}; it was {value!r} at the end")
        time.sleep(PAUSE_SECONDS)
