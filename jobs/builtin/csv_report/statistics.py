"""The figures of a column, made from its distribution at the end of the reading."""

from __future__ import annotations

import math

from .distribution import Distribution, Moments, SketchedDistribution
from .histogram import date_histogram, number_histogram
from .profile import RANKS, DateStatistics, NumberStatistics, Outliers

TUKEY_FENCE = 1.5  # times the interquartile range (Tukey 1977)
DEVIATIONS = 3
TUKEY_RULE = "more than 1.5 times the interquartile range below the first or above the third quartile"
DEVIATIONS_RULE = "more than 3 standard deviations from the mean, as the quartiles are equal"


def number_statistics(
    distribution: Distribution, moments: Moments, *, least: list[float], greatest: list[float], is_whole: bool
) -> NumberStatistics:
    """Describe a column of numbers.

    Args:
        distribution: of its numbers.
        moments: of the same.
        least: the few smallest, ascending.
        greatest: the few greatest, ascending.
        is_whole: whether all are whole.
    """
    low, high = least[0], greatest[-1]
    quantiles = tuple(min(max(each, low), high) for each in distribution.quantiles(RANKS))
    mean = min(max(moments.mean, low), high) if math.isfinite(moments.mean) else None
    return NumberStatistics(
        minimum=low,
        maximum=high,
        mean=mean,
        std=moments.std,
        quantiles=quantiles,
        outliers=_outliers(distribution, quantiles, mean, moments.std, sorted({*least, *greatest})),
        histogram=number_histogram(distribution, low=low, high=high, is_whole=is_whole),
        is_exact=distribution.is_exact,
        rank_error=_rank_error(distribution),
    )


def date_statistics(distribution: Distribution, *, low: float, high: float, has_time: bool) -> DateStatistics:
    """Describe a column of dates, in seconds since 1970."""
    return DateStatistics(
        minimum=low,
        maximum=high,
        quantiles=tuple(distribution.quantiles(RANKS)),
        histogram=date_histogram(distribution, low=low, high=high, has_time=has_time),
        is_exact=distribution.is_exact,
        rank_error=_rank_error(distribution),
    )


def _rank_error(distribution: Distribution) -> float:
    return distribution.rank_error if isinstance(distribution, SketchedDistribution) else 0.0


def _outliers(
    distribution: Distribution,
    quantiles: tuple[float, ...],
    mean: float | None,
    std: float | None,
    extremes: list[float],
) -> Outliers:
    first, third = quantiles[1], quantiles[3]
    rule, low, high = TUKEY_RULE, first - TUKEY_FENCE * (third - first), third + TUKEY_FENCE * (third - first)
    if first == third:  # half of the values are equal: Tukey's fences would call every other value far out
        middle, reach = (first if mean is None else mean), DEVIATIONS * (std or 0.0)
        rule, low, high = DEVIATIONS_RULE, middle - reach, middle + reach
    if not (math.isfinite(low) and math.isfinite(high)):
        return Outliers(rule=rule, low=extremes[0], high=extremes[-1], count=0, examples=())
    below, up_to_high = distribution.counts_below([low, math.nextafter(high, math.inf)])
    return Outliers(
        rule=rule,
        low=low,
        high=high,
        count=below + distribution.count - up_to_high,
        examples=tuple(each for each in extremes if each < low or each > high),
    )
