"""The most frequent values of a stream that has too many to keep."""

from __future__ import annotations

from collections.abc import Mapping

MAX_VALUE_CHARS = 1_000  # longer values are texts; they are not ranked


class FrequentValues:
    """Lossy counting (Manku and Motwani 2002) over buckets of distinct values with their counts.

    A value seen once in a bucket and never before isn't kept, so a column of keys costs next to nothing. A count is
    never too high, and too low by `max_error` at most.

    Args:
        capacity: how many values are kept between two buckets.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: dict[str, int] = {}
        self.max_error = 0

    def add(self, bucket: Mapping[str, int]) -> None:
        """Take in the next bucket."""
        kept = self._kept
        if kept:
            for value in kept.keys() & bucket.keys():
                kept[value] += bucket[value]
        for value, count in bucket.items():
            if count > 1 and value not in kept and len(value) <= MAX_VALUE_CHARS:
                kept[value] = count
        # What isn't kept had a count of one in this bucket; a value may be so unlucky in each.
        self.max_error += 1
        if len(kept) > self._capacity:
            self._shrink()

    def _shrink(self) -> None:
        ranked = sorted(self._kept.items(), key=lambda item: item[1], reverse=True)
        self.max_error += ranked[self._capacity // 2][1]
        self._kept = dict(ranked[: self._capacity // 2])

    def top(self, how_many: int) -> list[tuple[str, int]]:
        """The most frequent values with what is certain of their counts, most frequent first."""
        return sorted(self._kept.items(), key=lambda item: (-item[1], item[0]))[:how_many]
