"""The figures: exact where they say so, within their stated error where not."""

from __future__ import annotations

import io
import math
import random
import statistics
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.builtin.csv_report.column import Budget, ColumnProfiler
from jobs.builtin.csv_report.frequent import FrequentValues
from jobs.builtin.csv_report.profile import ColumnProfile, ColumnType, DateStatistics, NumberStatistics
from jobs.builtin.csv_report.profiler import profile_csv
from jobs.builtin.csv_report.readings import date_of

DATA = Path(__file__).resolve().parents[4] / "jobs" / "builtin" / "sample"
ROOMY = Budget(distinct=50_000, chars=10_000_000, hll_bits=14, kll_k=1024)
TIGHT = Budget(distinct=500, chars=10_000_000, hll_bits=14, kll_k=1024)


def profile_values(values: list[str], budget: Budget = ROOMY, *, comma: bool = False) -> ColumnProfile:
    column = ColumnProfiler("x", 1, budget, decimal_comma_likely=comma)
    for start in range(0, len(values), 400):
        batch = values[start : start + 400]
        column.add(batch, sum(map(len, batch)))
    return column.finish()


def numbers_of(column: ColumnProfile) -> NumberStatistics:
    assert column.numbers is not None
    return column.numbers


def dates_of(column: ColumnProfile) -> DateStatistics:
    assert column.dates is not None
    return column.dates


floats = st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda number: round(number, 4) + 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(floats, st.integers(-50, 50)), min_size=2, max_size=60))
def test_numbers_have_the_statistics_of_the_textbook(numbers: list[float]) -> None:
    figures = numbers_of(profile_values([str(number) for number in numbers]))
    wanted = np.quantile(np.array(numbers, dtype=float), [0.05, 0.25, 0.5, 0.75, 0.95])
    size = max(map(abs, numbers)) or 1.0
    assert figures.is_exact
    assert (figures.minimum, figures.maximum) == (min(numbers), max(numbers))
    assert figures.mean == pytest.approx(statistics.fmean(numbers), rel=1e-9, abs=size * 1e-9)
    assert figures.std == pytest.approx(statistics.stdev(numbers), rel=1e-6, abs=size * 1e-7)
    assert figures.quantiles == pytest.approx(wanted, rel=1e-9, abs=size * 1e-9)
    first, third = wanted[1], wanted[3]
    if third > first:
        low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
        if all(min(abs(number - low), abs(number - high)) > 1e-6 for number in numbers):  # none on the fence
            assert figures.outliers.count == sum(number < low or number > high for number in numbers)
    if figures.histogram:
        histogram = figures.histogram
        assert sum(histogram.counts) + histogram.below + histogram.above == len(numbers)
        assert list(histogram.edges) == sorted(set(histogram.edges))


def test_the_mean_of_large_numbers_close_together_is_stable() -> None:
    numbers = [1e9 + index % 10 for index in range(5000)]
    figures = numbers_of(profile_values([str(number) for number in numbers]))
    assert figures.std == pytest.approx(statistics.stdev(numbers), rel=1e-9)


def test_past_the_exact_size_every_estimate_is_within_its_stated_error() -> None:
    chance = random.Random(7)
    numbers = [round(chance.gauss(100, 15), 6) for _ in range(40_000)]
    texts = [str(number) if index % 4 else "7" for index, number in enumerate(numbers)]
    numbers = [float(text) for text in texts]
    column = profile_values(texts, TIGHT)
    figures = numbers_of(column)
    assert not figures.is_exact
    assert abs(column.distinct - len(set(texts))) <= 2 * column.distinct_error * len(set(texts))
    assert (figures.minimum, figures.maximum) == (min(numbers), max(numbers))
    assert figures.mean == pytest.approx(statistics.fmean(numbers))
    assert figures.std == pytest.approx(statistics.stdev(numbers))
    ordered = np.sort(numbers)
    for rank, value in zip((0.05, 0.25, 0.5, 0.75, 0.95), figures.quantiles, strict=True):
        low = np.searchsorted(ordered, value, "left") / len(ordered)
        high = np.searchsorted(ordered, value, "right") / len(ordered)
        assert low - 2 * figures.rank_error <= rank <= high + 2 * figures.rank_error
    assert column.top.values[0] == ("7", 10_000)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=30), st.integers(2, 20))
def test_the_count_of_a_frequent_value_is_never_too_high_and_too_low_by_its_error_only(
    buckets: list[list[int]], capacity: int
) -> None:
    frequent, truth = FrequentValues(capacity=capacity), Counter[str]()
    for bucket in buckets:
        counts = Counter(map(str, bucket))
        truth.update(counts)
        frequent.add(counts)
    kept = dict(frequent.top(100))
    assert len(kept) <= capacity
    for value, count in truth.items():
        assert count - frequent.max_error <= kept.get(value, 0) <= count


def test_values_longer_than_the_budget_of_characters_spill_without_loss() -> None:
    texts = [f"{index:06d} " + "long " * 40 for index in range(3000)]
    column = profile_values(texts, Budget(distinct=50_000, chars=100_000, hll_bits=14, kll_k=200))
    assert column.present == 3000
    assert column.distinct == pytest.approx(3000, rel=0.03)
    assert column.lengths is not None
    assert column.lengths.longest == len(texts[0].strip())


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "-2", "+3"], ColumnType.INTEGER),
        (["1", "2.5", "1e3"], ColumnType.NUMBER),
        (["1,234", "12,345.5"], ColumnType.NUMBER),
        (["007", "012", "100"], ColumnType.TEXT),
        (["1_000", "2_000"], ColumnType.TEXT),
        (["1e999", "1e999"], ColumnType.TEXT),
        (["inf", "infinity"], ColumnType.TEXT),
        (["٣", "٤"], ColumnType.TEXT),
        (["yes", "No", "YES"], ColumnType.BOOLEAN),
        (["true", "false", ""], ColumnType.BOOLEAN),
        (["2024-02-29", "2023-01-01"], ColumnType.DATE),
        (["2023-02-29", "2023-02-30"], ColumnType.TEXT),
        (["2024-02-29T10:00:00Z", "2024-02-29 11:00:00.5+02:00"], ColumnType.DATETIME),
        (["31/12/2024", "1/2/2025"], ColumnType.DATE),
        (["12/31/24 11:59 PM", "1/2/25 0:00 AM"], ColumnType.DATETIME),
        (["31.12.2024", "01.02.2025"], ColumnType.DATE),
        (["4 March 2025", "12-Jan-99"], ColumnType.DATE),
        (["Mar 4, 2025", "Dec 31, 1999"], ColumnType.DATE),
        (["", "NA", "n/a", "NULL", r"\N", "-"], ColumnType.EMPTY),
        (["None", "None"], ColumnType.TEXT),
        (["a", "1", "2"], ColumnType.TEXT),
    ],
)
def test_types(values: list[str], wanted: ColumnType) -> None:
    assert profile_values(values).type is wanted


def test_a_few_exceptions_leave_the_type_and_are_told() -> None:
    column = profile_values([str(index) for index in range(99)] + ["about 7"])
    assert column.type is ColumnType.INTEGER
    assert (column.exceptions.count, column.exceptions.examples) == (1, ("about 7",))
    assert numbers_of(column).maximum == 98
    assert profile_values(["1"] * 95 + ["x"] * 5).type is ColumnType.TEXT


def test_missing_is_counted_by_the_way_it_is_written() -> None:
    column = profile_values(["", " ", "NA", "NA", "n/a", "3"])
    assert (column.present, column.missing) == (1, 5)
    assert dict(column.missing_spellings) == {"": 2, "NA": 2, "n/a": 1}


def test_one_column_has_one_order_of_day_and_month() -> None:
    column = profile_values(["03/04/2025", "25/12/2025"])
    assert column.written == "as day, month, year"
    assert date_of(dates_of(column).minimum) == datetime(2025, 4, 3)
    assert profile_values(["03/04/2025", "12/25/2025"]).written == "as month, day, year"


def test_a_thousands_comma_or_a_decimal_comma_by_what_the_file_suggests() -> None:
    assert numbers_of(profile_values(["1,234"], comma=False)).minimum == 1234
    assert numbers_of(profile_values(["1,234"], comma=True)).minimum == 1.234
    assert numbers_of(profile_values(["1.234,5", "2,5"], comma=False)).maximum == 1234.5


def test_equal_quartiles_do_not_make_every_other_value_an_outlier() -> None:
    figures = numbers_of(profile_values(["0"] * 900 + ["1"] * 99 + ["5000"]))
    assert "standard deviations" in figures.outliers.rule
    assert (figures.outliers.count, figures.outliers.examples) == (1, (5000.0,))


def test_a_far_value_does_not_flatten_the_histogram() -> None:
    figures = numbers_of(profile_values([str(index) for index in range(1000)] + ["99999999"]))
    assert figures.histogram is not None
    assert len([count for count in figures.histogram.counts if count]) > 10
    assert figures.histogram.above > 0


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (["2012-01-01", "2015-12-31"], "month"),
        (["2012-01-01", "2012-01-20"], "day"),
        (["2012-01-01", "2012-09-01"], "week"),
        (["1990-01-01", "2002-07-25"], "quarter"),
        (["1900-05-05", "1960-01-01"], "year"),
        (["0001-01-01", "9999-12-31"], "century"),
        (["2024-01-01T00:00:00", "2024-01-01T00:00:30"], "second"),
        (["2024-01-01T00:00:00", "2024-01-02T12:00:00"], "hour"),
    ],
)
def test_dates_are_binned_by_a_unit_that_fits(values: list[str], unit: str) -> None:
    histogram = dates_of(profile_values(values)).histogram
    assert histogram.unit == unit
    assert sum(histogram.counts) == len(values)
    assert histogram.counts[0]
    assert histogram.counts[-1]


@pytest.mark.parametrize("values", [["1e308", "-1e308"], ["5e-324", "0"], ["1.7e308"] * 3, ["9007199254740993"] * 2])
def test_numbers_at_the_edge_of_a_float_give_no_nan(values: list[str]) -> None:
    figures = numbers_of(profile_values(values))
    for each in (figures.mean, figures.std, *figures.quantiles, figures.outliers.low, figures.outliers.high):
        assert each is None or math.isfinite(each)


def test_seattle_weather_is_known_by_heart() -> None:
    with (DATA / "seattle-weather.csv").open("rb") as stream:
        found = profile_csv(stream)
    assert (found.rows, found.warnings) == (1461, ())
    types = {column.name: column.type.value for column in found.columns}
    assert types == {
        "date": "date",
        "precipitation": "number",
        "temp_max": "number",
        "temp_min": "number",
        "wind": "number",
        "weather": "text",
    }
    assert found.columns[0].is_unique
    assert found.columns[5].top.values == (("rain", 641), ("sun", 640), ("fog", 101), ("drizzle", 53), ("snow", 26))
    assert numbers_of(found.columns[2]).quantiles == pytest.approx((6.1, 10.6, 15.6, 22.2, 28.9))


def test_birdstrikes_keeps_its_answer_none_and_its_gaps() -> None:
    content = (DATA / "birdstrikes.csv").read_bytes()
    found = profile_csv(io.BytesIO(content))
    columns = {column.name: column for column in found.columns}
    assert (found.rows, len(columns)) == (10_000, 14)
    assert columns["Effect Amount of damage"].top.values[0] == ("None", 8939)
    assert columns["Speed IAS in knots"].missing == 2836
    assert columns["Flight Date"].distinct == 3625
    assert columns["Flight Date"].type is ColumnType.DATE
