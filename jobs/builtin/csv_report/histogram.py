"""Histograms with edges that people read: 1, 2 or 5 times a power of ten, or units of the calendar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from .distribution import Distribution
from .readings import date_of, seconds_of

MOST_BINS = 40
STEPS = (1.0, 2.0, 5.0, 10.0)
FAR_OUT = 6  # times the width of the middle 98%: then the histogram shows the middle and counts the rest

DAY = 86_400.0
CLOCK_UNITS = (
    ("second", 1.0),
    ("10 seconds", 10.0),
    ("minute", 60.0),
    ("10 minutes", 600.0),
    ("hour", 3_600.0),
    ("6 hours", 21_600.0),
    ("day", DAY),
    ("week", 7 * DAY),
)
MONTH_UNITS = (("month", 1), ("quarter", 3), ("year", 12), ("5 years", 60), ("decade", 120), ("century", 1200))


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between ascending edges: one count fewer than edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    unit: str  # of the calendar; empty for numbers
    below: int = 0  # numbers left of the first edge
    above: int = 0  # numbers right of the last one
    is_exact: bool = True
    is_one_per_value: bool = False  # each bin is one whole number


def number_histogram(numbers: Distribution, *, low: float, high: float, is_whole: bool) -> Histogram | None:
    """Make the histogram of a column of numbers; None where its range is beyond what a float can divide.

    Args:
        numbers: their distribution.
        low: the least of them.
        high: the greatest.
        is_whole: whether they are whole numbers: then no bin is narrower than 1.
    """
    first, last = numbers.quantiles([0.01, 0.99])
    if last > first and high - low > FAR_OUT * (last - first):
        low, high = max(low, first), min(high, last)
    if not math.isfinite(high - low):
        return None
    if is_whole and high - low < MOST_BINS:
        edges = [low - 0.5 + index for index in range(round(high - low) + 2)]
        return _count(numbers, edges, unit="", is_one_per_value=True)
    step = _round_step((high - low) / (MOST_BINS * 0.6) or abs(low) / 10 or 1.0)
    if is_whole:
        step = max(1.0, math.ceil(step))
    start = math.floor(low / step)
    bins = max(math.floor(high / step) - start + 1, 1)
    edges = [float(f"{(start + index) * step:.12g}") for index in range(bins + 1)]
    if len(set(edges)) < len(edges):  # numbers too close together for their size
        return None
    return _count(numbers, edges, unit="")


def date_histogram(dates: Distribution, *, low: float, high: float, has_time: bool) -> Histogram:
    """Make the histogram of a column of dates, a bin for each unit of the calendar, the finest that fits.

    Args:
        dates: their distribution, in seconds since 1970.
        low: the first of them.
        high: the last.
        has_time: whether units shorter than a day make sense.
    """
    for unit, seconds in CLOCK_UNITS:
        if (has_time or seconds >= DAY) and (high - low) / seconds < MOST_BINS:
            # 1970 began on a Thursday; weeks begin on Mondays.
            offset = -3 * DAY if unit == "week" else 0.0
            start = math.floor((low - offset) / seconds) * seconds + offset
            bins = math.floor((high - start) / seconds) + 1
            return _count(dates, [start + index * seconds for index in range(bins + 1)], unit=unit)
    first, last = date_of(low).date(), date_of(high).date()
    months = (last.year - first.year) * 12 + last.month - first.month
    unit, size = next((each for each in MONTH_UNITS if months / each[1] < 2 * MOST_BINS), MONTH_UNITS[-1])
    start_month = (first.year * 12 + first.month - 1) // size * size
    last_month = last.year * 12 + last.month - 1
    bins = (last_month - start_month) // size + 1
    return _count(dates, [_month_seconds(start_month + index * size) for index in range(bins + 1)], unit=unit)


def _month_seconds(month: int) -> float:
    """Seconds at the beginning of a month counted from the year 0, also just past what `date` can hold."""
    if month < 12:
        return seconds_of(date.min)
    if month >= 9999 * 12 + 12:
        return seconds_of(date.max) + timedelta(days=1).total_seconds()
    return seconds_of(date(month // 12, month % 12 + 1, 1))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * each for each in STEPS if power * each >= step * (1 - 1e-9))


def _count(numbers: Distribution, edges: list[float], *, unit: str, is_one_per_value: bool = False) -> Histogram:
    below = numbers.counts_below(edges)
    return Histogram(
        edges=tuple(edges),
        counts=tuple(max(right - left, 0) for left, right in pairwise(below)),
        unit=unit,
        below=below[0],
        above=max(numbers.count - below[-1], 0),
        is_exact=numbers.is_exact,
        is_one_per_value=is_one_per_value,
    )
