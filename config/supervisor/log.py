"""One readable log of many processes."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import threading
from collections.abc import Iterable
from typing import TextIO

from honcho.colour import get_colours
from honcho.printer import Message, Printer

OWN_NAME = "kabar"


class Log:
    """Writes each line with the time and the name of the process that said it.

    Args:
        output: where to; None writes nothing. A terminal gets colours.
        names: of the processes, for the width of the column.
    """

    def __init__(self, output: TextIO | None, names: Iterable[str]) -> None:
        names = list(names)
        self._lock = threading.Lock()
        self._colours = dict(zip(names, itertools.cycle(itertools.islice(get_colours(), 12)), strict=False))
        width = max(map(len, [OWN_NAME, *names]))
        self._printer = None if output is None else Printer(output=output, width=width)

    def line(self, name: str, text: bytes | str) -> None:
        """Write one line of a process; empty ones, with which programs space their own screens, are left out."""
        if self._printer is None or not text.strip():
            return
        now = datetime.datetime.now()
        message = Message(type="line", data=text, time=now, name=name, colour=self._colours.get(name))
        # A reader that went away (`make run | head`) must not stop the processes, whose pipes would fill.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._printer.write(message)

    def own(self, text: str) -> None:
        """Write one line of the supervisor itself."""
        self.line(OWN_NAME, text)
