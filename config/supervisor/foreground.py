"""A stack in the foreground of a terminal or a service manager, until a signal ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Literal

from config.supervisor.stack import NotReady, Supervisor

READY_SECONDS = 60.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(supervisor: Supervisor, when_ready: Callable[[], None]) -> int:
    """Start the stack, keep it until SIGINT, SIGTERM or SIGHUP, then end it in order; another signal hurries.

    Args:
        supervisor: not yet started.
        when_ready: called once, in another thread, when all processes serve.

    Returns:
        The exit code: 0 when it was told to end, 1 when it did not become ready.
    """
    # Handlers only leave a note, which SimpleQueue allows at any moment; the work is done in ordinary threads.
    news: SimpleQueue[signal.Signals | Literal["failed", "ended"]] = SimpleQueue()

    def begin() -> None:
        try:
            supervisor.start()
            supervisor.wait_until_ready(READY_SECONDS)
            when_ready()
        except NotReady as error:
            supervisor.say(str(error))
            news.put("failed")
        except BaseException:
            news.put("failed")
            raise

    def end() -> None:
        try:
            supervisor.stop_all()
        finally:
            news.put("ended")

    def note(number: int, _frame: FrameType | None) -> None:
        news.put(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in ENDING_SIGNALS}
    try:
        threading.Thread(target=begin, name="begin", daemon=True).start()
        first = news.get()
        supervisor.say("ending; Ctrl-C again kills what is left")
        threading.Thread(target=end, name="end", daemon=True).start()
        while (later := news.get()) != "ended":
            if isinstance(later, signal.Signals):
                supervisor.hurry()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 1 if first == "failed" else 0
