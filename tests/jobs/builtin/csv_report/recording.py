"""A context that remembers what a handler said, and the file that it is given."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True, kw_only=True)
class MemoryFile:
    """A file parameter that lives in memory."""

    content: bytes
    name: str = "table.csv"

    @property
    def size(self) -> int:
        return len(self.content)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.content)


@dataclass(kw_only=True)
class RecordingContext:
    """What `jobs.context.Context` offers a handler, kept in lists."""

    stop_after: int | None = None  # progress reports before it is cancelled
    percents: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    main_file: str = ""

    def progress(
        self,
        percent: float | None = None,
        message: str | None = None,
        *,
        current: float | None = None,
        total: float | None = None,
    ) -> None:
        self.check_cancelled()
        assert percent is not None
        self.percents.append(percent)
        if message and message not in self.messages:
            self.messages.append(message)

    def log(self, message: str, level: str = "info") -> None:
        self.lines.append((level, message))

    def attach(self, name: str, source: Any, content_type: str | None = None, *, main: bool = False) -> None:
        self.files[name] = source
        assert content_type == "text/html; charset=utf-8"
        self.main_file = name if main else self.main_file

    def check_cancelled(self) -> None:
        if self.stop_after is not None and len(self.percents) >= self.stop_after:
            raise CancelledForTestError


class CancelledForTestError(Exception):
    """What the engine raises inside a handler that should stop."""
