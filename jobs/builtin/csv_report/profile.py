"""What a profile says: plain data, made by `profiler`, shown by `report` and `summary`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .dialect import Dialect
from .encoding import Encoding
from .histogram import Histogram

TYPED_SHARE = 0.98  # of the values present must be read as the type; fewer, and the column is text
RANKS = (0.05, 0.25, 0.5, 0.75, 0.95)


class ColumnType(StrEnum):
    """What the values of a column are."""

    INTEGER = "integer"
    NUMBER = "number"
    DATE = "date"
    DATETIME = "datetime"
    BOOLEAN = "boolean"
    TEXT = "text"
    EMPTY = "empty"

    @property
    def label(self) -> str:
        """In the report's words."""
        return TYPE_LABELS[self]


TYPE_LABELS = {
    ColumnType.INTEGER: "Whole numbers",
    ColumnType.NUMBER: "Numbers",
    ColumnType.DATE: "Dates",
    ColumnType.DATETIME: "Dates and times",
    ColumnType.BOOLEAN: "Yes or no",
    ColumnType.TEXT: "Text",
    ColumnType.EMPTY: "Empty",
}


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Numbers far from the rest."""

    rule: str  # in words
    low: float  # below it a number is far out
    high: float  # above it too
    count: int
    examples: tuple[float, ...]  # the farthest ones, ascending


@dataclass(frozen=True, kw_only=True)
class NumberStatistics:
    """Of a column of numbers."""

    minimum: float
    maximum: float
    mean: float | None  # None where a float can't hold it
    std: float | None  # of a sample (n - 1)
    quantiles: tuple[float, ...]  # at RANKS
    outliers: Outliers
    histogram: Histogram | None
    is_exact: bool  # of quantiles, outliers and histogram; the rest always is
    rank_error: float  # of the quantiles, as a part of 1; 0 where exact


@dataclass(frozen=True, kw_only=True)
class DateStatistics:
    """Of a column of dates or times: seconds since 1970 in UTC."""

    minimum: float
    maximum: float
    quantiles: tuple[float, ...]  # at RANKS
    histogram: Histogram
    is_exact: bool
    rank_error: float


@dataclass(frozen=True, kw_only=True)
class TextLengths:
    """Characters in the values present."""

    shortest: int
    longest: int
    mean: float


@dataclass(frozen=True, kw_only=True)
class Exceptions:
    """Values present that aren't of the column's type."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TopValues:
    """The most frequent values."""

    values: tuple[tuple[str, int], ...]
    max_error: int = 0  # by how much a count may be too low; 0: exact


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """All that is said of one column."""

    name: str
    position: int  # from 1
    type: ColumnType
    written: str  # how numbers or dates are written, where not in the plain way
    present: int
    missing: int
    missing_spellings: tuple[
        tuple[str, int], ...
    ]  # how missing was written ("" for nothing at all), the commonest first
    distinct: int
    distinct_error: float  # relative, at 95% confidence; 0: exact
    top: TopValues
    examples: tuple[str, ...]  # the first few different values
    exceptions: Exceptions
    lengths: TextLengths | None
    numbers: NumberStatistics | None
    dates: DateStatistics | None

    @property
    def is_constant(self) -> bool:
        """Whether every value present is the same."""
        return self.distinct == 1

    @property
    def is_unique(self) -> bool:
        """Whether no value comes twice; said only where certain."""
        return not self.distinct_error and self.distinct == self.present > 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All that is said of a file."""

    size_bytes: int
    encoding: Encoding
    dialect: Dialect
    has_header: bool
    rows: int  # without the header
    columns: tuple[ColumnProfile, ...]
    warnings: tuple[str, ...]
    exact_limit: int  # distinct values a column, up to which its figures are exact
