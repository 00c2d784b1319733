"""Kills a process at its k-th step: after a statement, a commit or a send.

The steps are found by counting, not by a list: the act is done again and again in a process of its own, which is killed
one step later each time, until it comes to its end.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from django.db import connection, connections

from jobs.courier import Courier
from notifications.webhooks.egress import Sender

MOST_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Crash:
    """How one run of the act came to its end."""

    step: int
    """The number of the step after which it was killed; the first beyond the last where it wasn't."""
    last_step: str
    """What that step was."""
    is_survivor: bool
    """Whether the act came to its end."""
    said: list[str]
    """What the process had told its caller before."""


class Steps:
    """Counts the steps of this process, and kills it after one of them."""

    def __init__(self, kill_after: int, told: int) -> None:
        self._kill_after = kill_after
        self._told = told
        self._count = 0

    def step(self, name: str) -> None:
        """Tell the parent of a step that has been made, and die here if it was the one."""
        self._count += 1
        os.write(self._told, f"step {name}\n".encode())
        if self._count == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    def count_all(self) -> None:
        """Count statements, commits, bells, wake-ups and POSTs from now on."""

        # Any: as Django has it for whoever wraps an execution.
        def executed(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
            result = execute(sql, params, many, context)
            self.step(f"statement {' '.join(sql.split())[:60]}")
            return result

        connection.execute_wrappers.append(executed)
        self._count_calls(connection, "_commit", "commit")
        self._count_calls(Sender, "post", "POST")

        def send(courier: Courier[Any, Any], key: Any, hint: Any) -> None:
            """Carry a hint at once, in this thread, so that each run has the same steps in the same order."""
            courier._deliver({key: hint})
            self.step(f"send {key}")

        Courier.send = send  # type: ignore[method-assign,assignment]  # in this process alone

    def _count_calls(self, owner: Any, name: str, step: str) -> None:
        call = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.step(step)
            return result

        setattr(owner, name, counted)


Say = Callable[[object], object]
"""Tells the caller of the act something that it may rely on from now on."""
Act = Callable[[Say], object]


def crashes(prepare: Callable[[], Act]) -> Iterator[Crash]:
    """Do an act again and again, killed one step later each time; the last one comes to its end.

    Args:
        prepare: makes what one run needs, in this process, and gives the act, which is done in a process of its own.

    Raises:
        AssertionError: the act failed by itself, or has no end.
    """
    for kill_after in range(1, MOST_STEPS):
        crash = _run(prepare(), kill_after)
        yield crash
        if crash.is_survivor:
            return
    raise AssertionError(f"the act has over {MOST_STEPS} steps")


def _run(act: Act, kill_after: int) -> Crash:
    connections.close_all()  # a child must not use them
    told, telling = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads: the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _die(act, Steps(kill_after, telling), telling)
    os.close(telling)
    with os.fdopen(told) as lines:
        text = lines.read().splitlines()
    _, status = os.waitpid(pid, 0)
    is_survivor = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    assert is_survivor or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), f"it failed: {text}"
    steps = [line.removeprefix("step ") for line in text if line.startswith("step ")]
    return Crash(
        step=kill_after,
        last_step=steps[-1] if steps else "none",
        is_survivor=is_survivor,
        said=[line.removeprefix("said ") for line in text if line.startswith("said ")],
    )


def _die(act: Act, steps: Steps, telling: int) -> NoReturn:
    try:
        connection.ensure_connection()
        steps.count_all()
        act(lambda something: os.write(telling, f"said {something}\n".encode()))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)
