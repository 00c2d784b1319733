"""The reading of a file from its first byte to its profile."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import chain
from typing import BinaryIO

from .column import Budget, ColumnProfiler
from .dialect import Dialect, find_dialect, has_header, name_columns
from .encoding import Encoding, find_encoding
from .profile import Profile
from .rows import BATCH_CHARS, RowSource
from .unreadable import UnreadableCsvError

MAX_COLUMNS = 5_000
SAMPLE_BYTES = 256 << 10  # that the dialect is found from
HEADER_CELLS = 5_000  # that tell whether there is a header
WIDTH_ROWS = 500  # that the number of columns is found from

# What all columns together may keep; it bounds the memory, whatever the file holds.
DISTINCT_VALUES = 500_000
DISTINCT_CHARS = 48_000_000
MOST_DISTINCT = 50_000  # for one column, however few there are
WIDE = 200  # columns; beyond it each keeps smaller sketches


class Stage(StrEnum):
    """What the profiler is doing, in the words that a user reads."""

    CHECKING = "Checking the encoding"
    READING = "Reading rows"


OnProgress = Callable[[Stage, int], None]


def profile_csv(
    stream: BinaryIO,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    on_progress: OnProgress | None = None,
) -> Profile:
    """Profile a CSV file in bounded memory.

    Args:
        stream: seekable and binary; read twice from its start, and left open.
        delimiter: one character, or None to find it.
        encoding: a name that Python's codecs know, or None to find it.
        header: whether the first row names the columns, or None to find out.
        on_progress: called with the stage and the bytes done in it; what it raises ends the profile.

    Raises:
        UnreadableCsvError: the file is no table, or one beyond the limits.
    """
    report = on_progress or (lambda stage, done: None)
    found = find_encoding(stream, given=encoding, on_bytes=lambda done: report(Stage.CHECKING, done))
    size = stream.seek(0, 2)
    dialect = _find_dialect(stream, found, size, delimiter)
    return _FileProfiler(RowSource(stream, found, dialect), size, found, dialect).run(header, report)


def _find_dialect(stream: BinaryIO, encoding: Encoding, size: int, delimiter: str | None) -> Dialect:
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding.codec)(encoding.errors)
    return find_dialect(decoder.decode(stream.read(SAMPLE_BYTES)), given=delimiter, is_whole=size <= SAMPLE_BYTES)


class _FileProfiler:
    """The columns of one file, and what is odd about its rows."""

    def __init__(self, source: RowSource, size: int, encoding: Encoding, dialect: Dialect) -> None:
        self._source = source
        self._size = size
        self._encoding = encoding
        self._dialect = dialect
        self._rows = 0
        self._short = _Ragged()
        self._long = _Ragged()

    def run(self, header: bool | None, report: OnProgress) -> Profile:
        batches = self._source.batches()
        first = next(batches, None)
        if first is None:
            raise UnreadableCsvError("empty_file", "The file holds no rows, only blank lines or nothing.")
        is_header = has_header(first[: HEADER_CELLS // len(first[0]) + 2]) if header is None else header
        names = self._name_columns(first, is_header)
        body = first[1:] if is_header else first
        columns, limit = self._make_columns(names)
        for batch in self._reported(chain([body], batches), report):
            self._add(batch, columns)
        return Profile(
            size_bytes=self._size,
            encoding=self._encoding,
            dialect=self._dialect,
            has_header=is_header,
            rows=self._rows,
            columns=tuple(column.finish() for column in columns),
            warnings=tuple(self._warnings(len(names))),
            exact_limit=limit,
        )

    def _name_columns(self, first: list[list[str]], is_header: bool) -> list[str]:
        body = first[1 : WIDTH_ROWS + 1] if is_header else first[:WIDTH_ROWS]
        common = Counter(map(len, body)).most_common(1)
        width = max(len(first[0]) if is_header else 0, common[0][0] if common else 0)
        if width > MAX_COLUMNS:
            raise UnreadableCsvError(
                "too_many_columns",
                f"The file has {width:,} columns; the limit is {MAX_COLUMNS:,}. "
                "If it hasn't, the delimiter is another: name it and try again.",
            )
        return name_columns(first[0] if is_header else [], width)

    def _make_columns(self, names: list[str]) -> tuple[list[ColumnProfiler], int]:
        budget = Budget(
            distinct=min(MOST_DISTINCT, DISTINCT_VALUES // len(names)),
            chars=DISTINCT_CHARS // len(names),
            hll_bits=14 if len(names) <= WIDE else 12,
            kll_k=1024 if len(names) <= WIDE else 200,
        )
        comma_likely = self._dialect.delimiter == ";"
        columns = [
            ColumnProfiler(name, position, budget, decimal_comma_likely=comma_likely)
            for position, name in enumerate(names, start=1)
        ]
        return columns, budget.distinct

    def _reported(self, batches: Iterator[list[list[str]]], report: OnProgress) -> Iterator[list[list[str]]]:
        for batch in batches:
            yield batch
            report(Stage.READING, self._source.bytes_read)

    def _add(self, batch: list[list[str]], columns: list[ColumnProfiler]) -> None:
        width = len(columns)
        if set(map(len, batch)) != {width}:
            self._straighten(batch, width)
        self._rows += len(batch)
        for column, values in zip(columns, zip(*batch, strict=True), strict=False):
            column.add(values, BATCH_CHARS)

    def _straighten(self, batch: list[list[str]], width: int) -> None:
        """Fill short rows, cut long ones, and count both."""
        for number, row in enumerate(batch, start=self._rows + 1):
            if len(row) < width:
                self._short.note(number)
                row.extend([""] * (width - len(row)))
            elif len(row) > width:
                self._long.note(number)
                del row[width:]

    def _warnings(self, width: int) -> Iterator[str]:
        encoding = self._encoding
        if encoding.guessed:
            yield f"The encoding {encoding.label} is a guess from the letters; name it if some look wrong."
        if encoding.damage:
            yield f"Some bytes are not {encoding.label} and show as \ufffd; the first is {encoding.damage}."
        if self._short.count:
            yield f"{self._short} fewer than {width:,} cells; what is missing at their end counts as missing."
        if self._long.count:
            yield f"{self._long} more than {width:,} cells; what is beyond is left out."
        if self._source.blank_lines:
            lines = self._source.blank_lines
            yield f"{lines:,} blank {'line was' if lines == 1 else 'lines were'} skipped."


class _Ragged:
    """Rows of another width than the table's."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0

    def note(self, row: int) -> None:
        self._first = self._first or row
        self.count += 1

    def __str__(self) -> str:
        if self.count == 1:
            return f"Row {self._first:,} has"
        return f"{self.count:,} rows (the first is row {self._first:,}) have"
