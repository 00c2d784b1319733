"""One column's profile, gathered batch by batch in bounded memory.

Values are counted in a dictionary. A column that never outgrows it is described exactly from the counts. One that does
empties it into sketches whenever it is full: a sketch's price is paid for distinct values, not for cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_

import datasketches
import numpy as np

from .distribution import ExactDistribution, Moments, SketchedDistribution
from .frequent import FrequentValues
from .profile import TYPED_SHARE, ColumnProfile, ColumnType, Exceptions, TextLengths, TopValues
from .readings import BOOLEAN_PAIRS, MISSING_SPELLINGS, Counts, Floats, Reading, choose_reading
from .statistics import date_statistics, number_statistics

TOP_VALUES = 10
EXAMPLES = 3
EXCEPTION_EXAMPLES = 5
EXTREMES = 5  # of the least and of the greatest numbers, kept as examples of outliers
EXAMPLE_CHARS = 200
SPILLED_DISTINCT = 8_192  # values counted between two spills: few enough to stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much one column may keep."""

    distinct: int  # values counted exactly
    chars: int  # of their texts
    hll_bits: int  # 2**bits registers: 14 is within 1.3% at 95% confidence, 12 within 2.6%
    kll_k: int


class ColumnProfiler:
    """Gathers one column.

    The reading (number, date, text) is chosen when the dictionary is full for the first time, or at the end. Text that
    turns into numbers after that stays text.

    Args:
        name: the column's.
        position: from 1.
        budget: what it may keep.
        decimal_comma_likely: what "1,234" is taken for where nothing else tells.
    """

    def __init__(self, name: str, position: int, budget: Budget, *, decimal_comma_likely: bool) -> None:
        self._name = name
        self._position = position
        self._budget = budget
        self._decimal_comma_likely = decimal_comma_likely
        self._counts: Counter[str] = Counter()
        self._chars_at_most = 0
        self._missing: Counter[str] = Counter()
        self._present = 0
        self._shortest, self._longest, self._chars = -1, 0, 0
        self._examples: tuple[str, ...] = ()
        self._sketches: _Sketches | None = None
        self._reading: Reading | None = None
        self._numbers = _Numbers()
        self._room = budget.distinct

    def add(self, values: Sequence[str], chars: int) -> None:
        """Count the next values.

        Args:
            values: a cell for each row.
            chars: an upper bound of their characters; cheap to know for a whole batch.
        """
        counts = self._counts
        before = len(counts)
        counts.update(values)
        if len(counts) == before:
            return
        self._chars_at_most += chars
        if len(counts) <= self._room:
            if self._chars_at_most <= self._budget.chars:
                return
            self._chars_at_most = sum(map(len, counts))
            if self._chars_at_most <= self._budget.chars:
                return
        self._spill()

    def _spill(self) -> None:
        if self._sketches is None:
            self._sketches = _Sketches(self._budget)
            self._room = min(self._room, SPILLED_DISTINCT)
        values, weights = self._take_counts()
        self._sketches.add(self._counts)
        self._read(values, weights)
        self._counts = Counter()
        self._chars_at_most = 0

    def _take_counts(self) -> tuple[list[str], Counts]:
        """Clean the dictionary of spaces and missing values, and take the measures that every value has."""
        stripped = list(map(str.strip, self._counts))
        if not all(map(is_, stripped, self._counts)):
            folded: Counter[str] = Counter()
            for value, count in zip(stripped, self._counts.values(), strict=True):
                folded[value] += count
            self._counts = folded
        for spelling in MISSING_SPELLINGS:
            if count := self._counts.pop(spelling, 0):
                self._missing[spelling] += count
        values = list(self._counts)
        weights = np.fromiter(self._counts.values(), dtype=np.int64, count=len(values))
        if values:
            lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
            shortest = int(lengths.min())
            self._shortest = shortest if self._shortest < 0 else min(self._shortest, shortest)
            self._longest = max(self._longest, int(lengths.max()))
            self._chars += int((lengths * weights).sum())
            self._present += int(weights.sum())
            self._examples = self._examples or tuple(value[:EXAMPLE_CHARS] for value in values[:EXAMPLES])
            if not self._numbers.is_begun:
                self._reading = choose_reading(self._counts, decimal_comma_likely=self._decimal_comma_likely)
                self._numbers.is_begun = True
        if self._sketches and self._reading:
            self._numbers.sketch(self._budget.kll_k)
        return values, weights

    def _read(self, values: list[str], weights: Counts) -> None:
        if self._reading and values:
            self._numbers.add(values, weights, self._reading)

    def finish(self) -> ColumnProfile:
        """Make the profile; nothing may be added after it."""
        values, weights = self._take_counts()
        if self._sketches:
            self._sketches.add(self._counts)
        self._read(values, weights)
        kind, exceptions = self._decide_type()
        is_number = kind in (ColumnType.INTEGER, ColumnType.NUMBER)
        is_date = kind in (ColumnType.DATE, ColumnType.DATETIME)
        distribution = self._numbers.distribution
        top, distinct, distinct_error = self._describe_values()
        return ColumnProfile(
            name=self._name,
            position=self._position,
            type=kind,
            written=self._reading.label if self._reading and (is_number or is_date) else "",
            present=self._present,
            missing=self._missing.total(),
            missing_spellings=tuple(self._missing.most_common()),
            distinct=distinct,
            distinct_error=distinct_error,
            top=top,
            examples=self._examples,
            exceptions=exceptions,
            lengths=self._lengths(),
            numbers=number_statistics(
                distribution,
                self._numbers.moments,
                least=self._numbers.least,
                greatest=self._numbers.greatest,
                is_whole=kind is ColumnType.INTEGER,
            )
            if is_number and distribution
            else None,
            dates=date_statistics(
                distribution,
                low=self._numbers.least[0],
                high=self._numbers.greatest[-1],
                has_time=kind is ColumnType.DATETIME,
            )
            if is_date and distribution
            else None,
        )

    def _decide_type(self) -> tuple[ColumnType, Exceptions]:
        if not self._present:
            return ColumnType.EMPTY, Exceptions()
        if self._sketches is None and (boolean := self._as_boolean()):
            return ColumnType.BOOLEAN, boolean
        numbers = self._numbers
        if not self._reading or numbers.moments.count < TYPED_SHARE * self._present:
            return ColumnType.TEXT, Exceptions()
        exceptions = Exceptions(
            count=self._present - numbers.moments.count, examples=tuple(numbers.misfits[:EXCEPTION_EXAMPLES])
        )
        if self._reading.is_date:
            return (ColumnType.DATETIME if numbers.has_fraction else ColumnType.DATE), exceptions
        return (ColumnType.NUMBER if numbers.has_fraction else ColumnType.INTEGER), exceptions

    def _as_boolean(self) -> Exceptions | None:
        for pair in BOOLEAN_PAIRS:
            others = [value for value in self._counts if value.lower() not in pair]
            apart = sum(self._counts[value] for value in others)
            if self._present - apart >= TYPED_SHARE * self._present:
                return Exceptions(
                    count=apart, examples=tuple(value[:EXAMPLE_CHARS] for value in others[:EXCEPTION_EXAMPLES])
                )
        return None

    def _describe_values(self) -> tuple[TopValues, int, float]:
        if self._sketches is None:
            ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:TOP_VALUES]
            return TopValues(values=_clipped(ranked)), len(self._counts), 0.0
        frequent = self._sketches.frequent
        top = TopValues(values=_clipped(frequent.top(TOP_VALUES)), max_error=frequent.max_error)
        return top, min(self._sketches.distinct, self._present), self._sketches.distinct_error

    def _lengths(self) -> TextLengths | None:
        if not self._present:
            return None
        return TextLengths(shortest=self._shortest, longest=self._longest, mean=self._chars / self._present)


def _clipped(ranked: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple((value[:EXAMPLE_CHARS], count) for value, count in ranked)


class _Sketches:
    """What stands in for the dictionary of a column that outgrew it."""

    def __init__(self, budget: Budget) -> None:
        self._hll = datasketches.hll_sketch(budget.hll_bits, datasketches.tgt_hll_type.HLL_4)
        self._bits = budget.hll_bits
        self.frequent = FrequentValues(capacity=max(budget.distinct // 4, 100))

    def add(self, counts: Counter[str]) -> None:
        update = self._hll.update
        for value in counts:
            update(value)
        self.frequent.add(counts)

    @property
    def distinct(self) -> int:
        return round(float(self._hll.get_estimate()))

    @property
    def distinct_error(self) -> float:
        return float(datasketches.hll_sketch.get_rel_err(False, False, self._bits, 2))  # below it, the wider side


class _Numbers:
    """What is known of a column's values as numbers, in the reading that was chosen for it."""

    def __init__(self) -> None:
        self.is_begun = False
        self.moments = Moments()
        self.has_fraction = False
        self.misfits: list[str] = []
        self.least: list[float] = []  # ascending
        self.greatest: list[float] = []  # ascending
        self.distribution: ExactDistribution | SketchedDistribution | None = None

    def sketch(self, k: int) -> None:
        """Say that there will be more than one batch."""
        if self.distribution is None:
            self.distribution = SketchedDistribution(k)

    def add(self, values: list[str], weights: Counts, reading: Reading) -> None:
        """Read distinct values; those that aren't numbers in this reading are counted by their absence."""
        numbers = reading.parse_all(values)
        fits = ~np.isnan(numbers)
        if not fits.all():
            misfits = (values[index] for index in np.flatnonzero(~fits)[:EXCEPTION_EXAMPLES])
            self.misfits = (self.misfits + [value[:EXAMPLE_CHARS] for value in misfits])[:EXCEPTION_EXAMPLES]
            numbers, weights = numbers[fits], weights[fits]
            values = [value for value, does_fit in zip(values, fits, strict=True) if does_fit]
        if not len(numbers):
            return
        self.has_fraction = self.has_fraction or bool(reading.has_fraction.search("\n".join(values)))
        self.moments.add(numbers, weights)
        self._keep_extremes(numbers)
        if isinstance(self.distribution, SketchedDistribution):
            self.distribution.add(numbers, weights)
        else:
            self.distribution = ExactDistribution(numbers=numbers, weights=weights)

    def _keep_extremes(self, numbers: Floats) -> None:
        distinct = np.unique(np.concatenate([numbers, self.least, self.greatest]))
        self.least = [float(number) for number in distinct[:EXTREMES]]
        self.greatest = [float(number) for number in distinct[-EXTREMES:]]
