"""How a cell's text is read as a value: what counts as missing, and the ways numbers and dates are written.

A column has one reading, chosen by what most of its values follow, so that "03/04/2025" means the same day in all rows.
Every reading turns text into a float (dates into seconds since 1970 in UTC), so that one set of statistics serves both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# "None" is left out on purpose: as an answer ("damage: None") it is as common as in the sense of missing.
MISSING_MARKERS = ("", "NA", "N/A", "NaN", "NULL", "nil", r"\N", "#N/A", "<NA>", "(null)", "-", "--", "?")
MISSING_SPELLINGS = tuple(
    dict.fromkeys(way(marker) for marker in MISSING_MARKERS for way in (str, str.lower, str.upper, str.title))
)

BOOLEAN_PAIRS = (("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off"))

READ_SAMPLE = 2_000  # distinct values that choose the reading
READ_SHARE = 0.5  # of them must follow it; fewer, and the column is text

PLAIN = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
COMMA = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:,\d+)?|[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?)", re.ASCII)
NOT_PLAIN = re.compile(r"[^0-9+\-.eE\n]")
LEADING_ZERO = re.compile(r"\n0\d", re.ASCII)
FRACTION = re.compile(r"[.eE]")

CLOCK = r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?)?"
ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?", re.ASCII)
YEAR_FIRST = re.compile(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})" + CLOCK, re.ASCII)
YEAR_LAST = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})" + CLOCK, re.ASCII)
DAY_MONTH_NAME = re.compile(r"(\d{1,2})[ -]([A-Za-z]{3,9})\.?,?[ -](\d{4}|\d{2})" + CLOCK, re.ASCII)
MONTH_NAME_DAY = re.compile(r"([A-Za-z]{3,9})\.? (\d{1,2}),? (\d{4})" + CLOCK, re.ASCII)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

EPOCH = datetime(1970, 1, 1)  # naive: times without a zone are taken as UTC
EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way in which the values of a column are written."""

    is_date: bool
    label: str  # said in the report where it isn't the plain way
    parse: Callable[[str], float | None]  # None: not written this way
    has_fraction: re.Pattern[str]  # found in a number that isn't whole, in a date that has a time

    def parse_all(self, values: Sequence[str]) -> Floats:
        """Read many values; NaN where one isn't written this way."""
        if self.parse is parse_plain and (numbers := _parse_plain_fast(values)) is not None:
            return numbers
        read = map(self.parse, values)
        return np.array([np.nan if number is None else number for number in read], dtype=np.float64)


def parse_plain(value: str) -> float | None:
    """Read a number with a decimal point; one with leading zeros is a code, and none."""
    return _finite(value) if PLAIN.fullmatch(value) else None


def _parse_plain_fast(values: Sequence[str]) -> Floats | None:
    """Read a batch without looking at each value with a pattern, if all of them are plain numbers."""
    joined = "\n" + "\n".join(values)
    if NOT_PLAIN.search(joined) or LEADING_ZERO.search(joined):
        return None
    try:
        numbers = np.fromiter(map(float, values), dtype=np.float64, count=len(values))
    except ValueError:
        return None
    return numbers if bool(np.isfinite(numbers).all()) else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if abs(number) != float("inf") else None


def parse_grouped(value: str) -> float | None:
    """Read 1,234.5 and plain numbers."""
    if GROUPED.fullmatch(value):
        return _finite(value.replace(",", ""))
    return parse_plain(value)


def parse_comma(value: str) -> float | None:
    """Read 1.234,5 and 1234,5."""
    if COMMA.fullmatch(value):
        return _finite(value.replace(".", "").replace(",", "."))
    return None


def parse_iso(value: str) -> float | None:
    """Read a date or time of ISO 8601 in its common, extended form."""
    if not ISO.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment - (EPOCH_UTC if moment.tzinfo else EPOCH)).total_seconds()


def parse_year_first(value: str) -> float | None:
    """Read 2025/3/4 and 2025.03.04."""
    found = YEAR_FIRST.fullmatch(value)
    return _seconds(found[1], found[2], found[3], found.groups()[3:]) if found else None


def parse_day_first(value: str) -> float | None:
    """Read 4/3/2025, 4.3.2025 and 4-3-25 as the fourth of March."""
    found = YEAR_LAST.fullmatch(value)
    return _seconds(found[4], found[3], found[1], found.groups()[4:]) if found else None


def parse_month_first(value: str) -> float | None:
    """Read 3/4/2025 as the fourth of March."""
    found = YEAR_LAST.fullmatch(value)
    return _seconds(found[4], found[1], found[3], found.groups()[4:]) if found else None


def parse_month_name(value: str) -> float | None:
    """Read 4 March 2025, 4-Mar-25 and Mar 4, 2025; English names."""
    if found := DAY_MONTH_NAME.fullmatch(value):
        day, name, year, *clock = found.groups()
    elif found := MONTH_NAME_DAY.fullmatch(value):
        name, day, year, *clock = found.groups()
    else:
        return None
    short = name[:3].lower()
    return _seconds(year, str(MONTHS.index(short) + 1), day, clock) if short in MONTHS else None


def _seconds(year: str, month: str, day: str, clock: Sequence[str | None]) -> float | None:
    hour, minute, second, half = clock
    years = int(year)
    if len(year) == 2:
        years += 1900 if years > 68 else 2000  # as POSIX strptime has it
    hours = int(hour or 0)
    if half:
        hours = hours % 12 + (12 if half in "Pp" else 0)
    try:
        moment = datetime(years, int(month), int(day), hours, int(minute or 0), int(second or 0))
    except ValueError:
        return None
    return (moment - EPOCH).total_seconds()


_CLOCK_SEEN = re.compile(":")
_COMMA_SEEN = re.compile(",")


def _number(label: str, parse: Callable[[str], float | None], has_fraction: re.Pattern[str]) -> Reading:
    return Reading(is_date=False, label=label, parse=parse, has_fraction=has_fraction)


def _date(label: str, parse: Callable[[str], float | None]) -> Reading:
    return Reading(is_date=True, label=label, parse=parse, has_fraction=_CLOCK_SEEN)


PLAIN_NUMBERS = _number("", parse_plain, FRACTION)
GROUPED_NUMBERS = _number("with commas between thousands", parse_grouped, FRACTION)
COMMA_NUMBERS = _number("with a decimal comma", parse_comma, _COMMA_SEEN)
ISO_DATES = _date("", parse_iso)
DAY_FIRST_DATES = _date("as day, month, year", parse_day_first)
MONTH_FIRST_DATES = _date("as month, day, year", parse_month_first)

# Of those that read equally many values, the first is taken.
READINGS = (
    PLAIN_NUMBERS,
    GROUPED_NUMBERS,
    COMMA_NUMBERS,
    ISO_DATES,
    _date("as year, month, day", parse_year_first),
    DAY_FIRST_DATES,
    MONTH_FIRST_DATES,
    _date("with the month's name", parse_month_name),
)


def choose_reading(values: Mapping[str, int], *, decimal_comma_likely: bool) -> Reading | None:
    """Choose how a column's values are written; None for text.

    Args:
        values: its values and how often each was seen; up to READ_SAMPLE of them, spread over the whole, are looked at.
        decimal_comma_likely: what "1,234" is taken for where nothing else in the column tells.
    """
    step = -(-len(values) // READ_SAMPLE) or 1
    sample = list(values.items())[::step]
    total = sum(count for _, count in sample)
    if _parse_plain_fast([value for value, _ in sample]) is not None:  # no other way can read more
        return PLAIN_NUMBERS
    read = {each: _count_read(each, sample) for each in READINGS}
    best = max(READINGS, key=lambda each: read[each])
    if best is GROUPED_NUMBERS and decimal_comma_likely and read[COMMA_NUMBERS] == read[best]:
        best = COMMA_NUMBERS
    if best is DAY_FIRST_DATES and read[MONTH_FIRST_DATES] == read[best] and any("/" in value for value, _ in sample):
        best = MONTH_FIRST_DATES  # nothing tells; with slashes the American order is the commoner one in files
    return best if read[best] > READ_SHARE * total else None


def _count_read(reading: Reading, sample: Collection[tuple[str, int]]) -> int:
    return sum(count for value, count in sample if reading.parse(value) is not None)


def family_of(cell: str) -> str:
    """Tell whether a cell is a number, a date or a boolean; empty for a word."""
    value = cell.strip()
    for reading in READINGS:
        if reading.parse(value) is not None:
            return "date" if reading.is_date else "number"
    return "boolean" if any(value.lower() in pair for pair in BOOLEAN_PAIRS) else ""


def date_of(seconds: float) -> datetime:
    """Turn a date's float back into a time in UTC, without its zone."""
    return datetime.fromtimestamp(seconds, tz=UTC).replace(tzinfo=None)


def seconds_of(day: date) -> float:
    """Turn a day into the float of its midnight in UTC."""
    return (day.toordinal() - EPOCH.toordinal()) * 86_400.0
