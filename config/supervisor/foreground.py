"""A stack in the foreground of a terminal or a service manager, until a signal ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from config.supervisor.stack import NotReady, Supervisor

READY_SECONDS = 60.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What else may come through the pipe of signals, whose numbers end at 64.
FAILED, ENDED = b"\xf0", b"\xf1"


def serve(supervisor: Supervisor, when_ready: Callable[[], None], ready_seconds: float = READY_SECONDS) -> int:
    """Start the stack, keep it until SIGINT, SIGTERM or SIGHUP, then end it in order; another signal hurries.

    Args:
        supervisor: not yet started.
        when_ready: called once, in another thread, when all processes serve.
        ready_seconds: how long all of them may take until then.

    Returns:
        The exit code: 0 when it was told to end, 1 when it did not become ready.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def begin() -> None:
        try:
            supervisor.start()
            supervisor.wait_until_ready(ready_seconds)
            when_ready()
        except NotReady as error:
            supervisor.say(str(error))
            os.write(writer, FAILED)
        except BaseException:
            os.write(writer, FAILED)
            raise

    def end() -> None:
        try:
            supervisor.stop_all()
        finally:
            os.write(writer, ENDED)

    # The interpreter writes the number of each signal into the pipe at once. A handler in Python would run only when
    # the main thread does, and a signal that came just before that thread began to wait would be noticed by nobody.
    before = {number: signal.signal(number, _do_nothing) for number in ENDING_SIGNALS}
    fd_before = signal.set_wakeup_fd(writer)
    starter = threading.Thread(target=begin, name="begin", daemon=True)
    ender = threading.Thread(target=end, name="end", daemon=True)
    try:
        starter.start()
        first = os.read(reader, 1)
        supervisor.say("ending; Ctrl-C again kills what is left")
        ender.start()
        while (news := os.read(reader, 1)) != ENDED:
            if news != FAILED:
                supervisor.hurry()
        starter.join()
        ender.join()
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
    return 1 if first == FAILED else 0


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Stand in for a handler, without which the signal would have its usual effect."""
