"""Where everything stands in the report's charts.

Across, positions are percents of the chart's width, so that a chart fills any screen and its letters keep their size;
down, they are pixels. The template writes the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from .histogram import Histogram
from .readings import date_of
from .wording import say_count, say_moment, say_number, say_short

GUTTER = 9.0  # percent at the left, for the figures of the vertical axis
BASE = 188  # pixels from the top to the line that the bars stand on
BARS_TOP = 12
GAP = 0.3  # percent between two bars
MOST_TICKS = 6
SPARK_WIDTH, SPARK_HEIGHT = 120, 24


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar; its title is read out and shown on hover."""

    x: str
    y: str
    width: str
    height: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label on an axis."""

    at: str
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The quantiles on the histogram's scale: line from 5% to 95%, box over the middle half, mark at the median."""

    line: tuple[str, str]
    box: tuple[str, str]  # from, width
    median: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A histogram with its strip."""

    title: str
    description: str
    bars: tuple[Bar, ...]
    rungs: tuple[Tick, ...]  # of the vertical axis; `at` in pixels
    ticks: tuple[Tick, ...]
    strip: Strip | None
    base: int = BASE

    @property
    def height(self) -> int:
        """In pixels: the labels, and the strip if there is one, stand below the base."""
        return self.base + (46 if self.strip else 22)


def draw_histogram(histogram: Histogram, quantiles: Sequence[float], *, title: str, has_time: bool) -> Chart:
    """Place the bars, axes and quantiles of a histogram.

    Args:
        histogram: what to draw.
        quantiles: at 5, 25, 50, 75 and 95%.
        title: what the chart shows, for those who hear it.
        has_time: whether dates are told with their time.
    """
    edges, counts = histogram.edges, histogram.counts
    tallest = max(max(counts), 1)
    rungs = _rungs(tallest)
    top = max(rungs[-1], tallest)
    across = _Scale(edges)
    bars = []
    for index, count in enumerate(counts):
        left, right = across(edges[index]), across(edges[index + 1])
        height = (BASE - BARS_TOP) * count / top
        height = max(height, 1.0) if count else 0.0  # a bar of one row in a million is still seen
        bars.append(
            Bar(
                x=_percent(left + GAP / 2),
                y=f"{BASE - height:.1f}",
                width=_percent(max(right - left - GAP, 0.2)),
                height=f"{height:.1f}",
                title=f"{_bin_label(histogram, index, has_time)}: {say_count(count)}",
            )
        )
    at = max(range(len(counts)), key=counts.__getitem__)
    return Chart(
        title=title,
        description=f"{len(counts)} bars; the tallest, {_bin_label(histogram, at, has_time)}, stands for "
        f"{say_count(counts[at])} rows.",
        bars=tuple(bars),
        rungs=tuple(Tick(at=f"{BASE - (BASE - BARS_TOP) * rung / top:.1f}", text=say_short(rung)) for rung in rungs),
        ticks=tuple(_ticks(histogram, across)),
        strip=_strip(quantiles, edges, across),
    )


class _Scale:
    """Places numbers across."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._low, self._span = edges[0], edges[-1] - edges[0]

    def __call__(self, number: float) -> float:
        part = (number - self._low) / self._span
        return GUTTER + (100 - GUTTER) * min(max(part, 0.0), 1.0)


def _rungs(tallest: int) -> list[int]:
    """One to three round counts up to the tallest bar."""
    power = 10 ** math.floor(math.log10(tallest))
    for step in (power // 2 or 1, power, 2 * power, 5 * power):
        if tallest // step <= 3:
            return [step * index for index in range(1, tallest // step + 1)] or [tallest]
    return [tallest]


def _bin_label(histogram: Histogram, index: int, has_time: bool) -> str:
    low, high = histogram.edges[index], histogram.edges[index + 1]
    if histogram.unit:
        return _period(histogram.unit, low, has_time)
    if histogram.is_one_per_value:
        return say_number(low + 0.5, 12)
    return f"{say_number(low, 8)} to {say_number(high, 8)}"


def _period(unit: str, seconds: float, has_time: bool) -> str:
    moment = date_of(seconds)
    if unit == "month":
        return f"{moment:%b} {moment.year}"
    if unit == "quarter":
        return f"quarter {(moment.month + 2) // 3} of {moment.year}"
    if unit == "year":
        return str(moment.year)
    if unit in ("5 years", "decade", "century"):
        return f"from {moment.year}"
    if unit == "week":
        return f"week of {moment.date().isoformat()}"
    return say_moment(seconds, has_time=has_time and unit != "day")


def _ticks(histogram: Histogram, across: _Scale) -> Iterator[Tick]:
    edges = list(histogram.edges)
    if histogram.is_one_per_value:
        middles = [edge + 0.5 for edge in edges[:-1]]
        step = -(-len(middles) // 12)
        for middle in middles[::step]:
            yield Tick(at=_percent(across(middle)), text=say_short(middle))
        return
    if not histogram.unit:
        # One, two or five bins apart, so that the labels are as round as the edges.
        step = next(each for each in (1, 2, 5, 10, 20, 50) if (len(edges) - 1) / each <= MOST_TICKS)
        # Zero is among the labels wherever it is among the edges.
        offset = edges.index(0) % step if 0 in edges else 0
        for edge in edges[offset::step]:
            yield _tick(across(edge), say_short(edge))
        return
    labels = [(edge, label) for edge in edges[:-1] if (label := _calendar_label(histogram.unit, date_of(edge)))]
    if len(labels) < 2:
        labels = [(edge, _plain_label(histogram.unit, date_of(edge))) for edge in edges[:-1]]
    step = -(-len(labels) // MOST_TICKS)
    for edge, label in labels[::step]:
        yield _tick(across(edge), label)


def _tick(at: float, text: str) -> Tick:
    anchor = "start" if at < GUTTER + 3 else "end" if at > 97 else "middle"
    return Tick(at=_percent(at), text=text, anchor=anchor)


def _calendar_label(unit: str, moment: datetime) -> str:
    """The label at the beginning of the next larger unit; empty between."""
    if unit in ("month", "quarter"):
        return str(moment.year) if moment.month == 1 else ""
    if unit in ("year", "5 years", "decade", "century"):
        return str(moment.year)
    if unit in ("hour", "6 hours"):
        return f"{moment.day} {moment:%b}" if moment.hour == 0 else ""
    return ""


def _plain_label(unit: str, moment: datetime) -> str:
    if unit in ("month", "quarter"):
        return f"{moment:%b} {moment.year}"
    if unit in ("day", "week"):
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M:%S}" if "second" in unit else f"{moment:%H:%M}"


def _strip(quantiles: Sequence[float], edges: Sequence[float], across: _Scale) -> Strip | None:
    low, first, median, third, high = quantiles
    if high < edges[0] or low > edges[-1] or low == high:
        return None
    return Strip(
        line=(_percent(across(low)), _percent(across(high))),
        box=(_percent(across(first)), _percent(max(across(third) - across(first), 0.3))),
        median=_percent(across(median)),
    )


def draw_spark(counts: Sequence[int]) -> str:
    """The path of a small bar chart, in a box of SPARK_WIDTH by SPARK_HEIGHT."""
    if not counts or not max(counts):
        return ""
    wide = SPARK_WIDTH / len(counts)
    tallest = max(counts)
    parts = []
    for index, count in enumerate(counts):
        if count:
            height = max(round(SPARK_HEIGHT * count / tallest, 1), 0.8)
            bar = max(wide - 1, 0.6)
            parts.append(f"M{index * wide:.1f} {SPARK_HEIGHT}v-{height:g}h{bar:.1f}v{height:g}z")
    return "".join(parts)


def _percent(number: float) -> str:
    return f"{number:.2f}%"
