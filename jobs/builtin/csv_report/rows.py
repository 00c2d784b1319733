"""The rows of a file, in batches of bounded size, whatever the file holds.

`csv.reader` does the cutting. Around it stand the bounds that it lacks: a line is read up to a limit, a quoted cell
that never ends is stopped, and a batch closes after so many rows or characters.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from .dialect import Dialect
from .encoding import Encoding
from .unreadable import UnreadableCsvError

MAX_CELL_CHARS = 1_000_000
MAX_ROW_CHARS = 16_000_000
BATCH_ROWS = 4_096  # their cells stay near the processor's cache; more is slower
BATCH_CHARS = 4_000_000


class _ByteCounter(io.BufferedIOBase):
    """Reads through to a stream and counts; closing it leaves the stream open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        """The method that TextIOWrapper calls, with its own chunk size: larger chunks read twice as fast."""
        chunk = self._stream.read(max(size, 1 << 17))
        self.bytes_read += len(chunk)
        return chunk


class RowSource:
    """One pass over the rows of a file.

    Args:
        stream: seekable binary; read from its start.
        encoding: how to decode it.
        dialect: how to cut it.
    """

    def __init__(self, stream: BinaryIO, encoding: Encoding, dialect: Dialect) -> None:
        # The csv module's limit is one for the process, 131,072 by default; ours only raises it.
        csv.field_size_limit(MAX_CELL_CHARS)
        stream.seek(0)
        self._bytes = _ByteCounter(stream)
        # newline="" keeps the ends of lines as they are and yet splits at each of the three kinds.
        self._text = io.TextIOWrapper(
            cast("BinaryIO", self._bytes),  # read1 is all that is called
            encoding=encoding.codec,
            errors=encoding.errors,
            newline="",
        )
        self._dialect = dialect
        self._chars = 0
        self._row_began = 0  # the value of _chars after the last whole row
        self.blank_lines = 0

    @property
    def bytes_read(self) -> int:
        """How far the stream is read."""
        return self._bytes.bytes_read

    def batches(self) -> Iterator[list[list[str]]]:
        """Yield the rows, never an empty batch, blank lines left out and counted.

        Raises:
            UnreadableCsvError: a cell or a row is beyond the limits.
        """
        reader = csv.reader(self._lines(), **self._dialect.reader_options)
        rows: list[list[str]] = []
        closes_at = BATCH_CHARS
        try:
            for row in reader:
                self._row_began = self._chars
                if row:
                    rows.append(row)
                else:
                    self.blank_lines += 1
                if len(rows) >= BATCH_ROWS or self._chars >= closes_at:
                    if rows:
                        yield rows
                    rows = []
                    closes_at = self._chars + BATCH_CHARS
        except csv.Error as error:
            raise self._explained(error, reader.line_num) from error
        if rows:
            yield rows

    def _lines(self) -> Iterator[str]:
        readline = self._text.readline
        for _ in range(self._dialect.skip_lines):
            readline(MAX_ROW_CHARS)
        while line := readline(MAX_ROW_CHARS):
            self._chars += len(line)
            if self._chars - self._row_began >= MAX_ROW_CHARS:
                raise self._too_large(line)
            yield line

    def _too_large(self, line: str) -> UnreadableCsvError:
        longest = max(map(len, line.split(self._dialect.delimiter)))
        if longest > MAX_CELL_CHARS:
            return UnreadableCsvError("cell_too_large", _cell_message(None))
        return UnreadableCsvError(
            "row_too_large",
            f"A row is longer than {MAX_ROW_CHARS:,} characters, which is the limit. "
            "Look for a quote that is opened and never closed, or for missing ends of lines.",
        )

    def _explained(self, error: csv.Error, line: int) -> UnreadableCsvError:
        if "field larger" in str(error):
            return UnreadableCsvError("cell_too_large", _cell_message(line))
        return UnreadableCsvError("malformed_csv", f"The file can't be read as CSV near line {line:,}: {error}.")


def _cell_message(line: int | None) -> str:
    where = f" (near line {line:,})" if line else ""
    return (
        f"A cell{where} is longer than {MAX_CELL_CHARS:,} characters, which is the limit. "
        "Most often a quote is opened and never closed; else leave that column out."
    )
