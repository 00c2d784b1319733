"""A column as the report shows it: its line in the table and its own section, every figure already in words."""

from __future__ import annotations

from dataclasses import dataclass

from .charts import Chart, draw_histogram, draw_spark
from .profile import ColumnProfile, ColumnType, Profile
from .wording import say_about, say_count, say_moment, say_number, say_plural, say_share, say_value

MOST_SECTIONS = 60
TELLING_SHARE = 0.01  # below it the most frequent number or date is chance


@dataclass(frozen=True, kw_only=True)
class TopRow:
    """One of the most frequent values."""

    value: str
    count: str
    share: str
    width: str  # of its bar


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A figure and what it is."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """A column's line in the table."""

    anchor: str
    position: int
    name: str
    type: str
    missing: str  # "" where none is
    missing_width: str
    distinct: str
    range: str
    spark: str
    has_section: bool


@dataclass(frozen=True, kw_only=True)
class SectionView:
    """One column's own section."""

    head: ColumnView
    lead: str
    chart: Chart | None
    chart_note: str
    top: tuple[TopRow, ...]
    top_title: str
    examples: str  # where neither chart nor top values say anything
    facts: tuple[Fact, ...]
    quantiles: tuple[Fact, ...]
    outliers: str
    exceptions: str


def view_column(column: ColumnProfile, profile: Profile) -> ColumnView:
    """Make the column's line in the table."""
    has_section = column.position <= MOST_SECTIONS
    return ColumnView(
        anchor=f"c{column.position}",
        position=column.position,
        name=say_value(column.name, 100),
        type=column.type.label,
        missing=say_share(column.missing, profile.rows) if column.missing else "",
        missing_width=f"{100 * column.missing / (profile.rows or 1):.1f}%",
        distinct=_distinct(column),
        range=_range(column),
        spark=draw_spark(_spark_counts(column)),
        has_section=has_section,
    )


def _distinct(column: ColumnProfile) -> str:
    return f"≈ {say_about(column.distinct)}" if column.distinct_error else say_count(column.distinct)


def _range(column: ColumnProfile) -> str:
    if column.numbers:
        return f"{say_number(column.numbers.minimum, 6)} to {say_number(column.numbers.maximum, 6)}"
    if column.dates:
        # Without the time: two of them fill a table's cell too well.
        low, high = (say_moment(each, has_time=False) for each in (column.dates.minimum, column.dates.maximum))
        return f"{low} to {high}"
    if column.top.values and column.top.values[0][1] > 1:
        return say_value(column.top.values[0][0], 32)
    return ""


def _spark_counts(column: ColumnProfile) -> tuple[int, ...]:
    if column.numbers:
        return column.numbers.histogram.counts if column.numbers.histogram else ()
    if column.dates:
        return column.dates.histogram.counts
    if column.is_unique:
        return ()
    return tuple(count for _, count in column.top.values)


def view_section(column: ColumnProfile, head: ColumnView, profile: Profile) -> SectionView:
    """Make the column's own section."""
    chart, note = _chart(column)
    top = _top(column, 5 if chart else 10)
    examples = "" if chart or top else ", ".join(f"“{say_value(value, 60)}”" for value in column.examples)
    return SectionView(
        head=head,
        lead=_lead(column),
        chart=chart,
        chart_note=note,
        top=top,
        top_title="Most frequent values" if column.distinct > len(column.top.values) or chart else "Values",
        examples=examples,
        facts=_facts(column, profile),
        quantiles=_quantiles(column),
        outliers=_outliers(column),
        exceptions=_exceptions(column),
    )


def _lead(column: ColumnProfile) -> str:
    if column.type is ColumnType.EMPTY:
        return "Nothing is in this column."
    written = f", written {column.written}" if column.written else ""
    if column.is_constant:
        tail = "always the same value"
    elif column.is_unique:
        tail = "every value different"
    elif column.distinct_error:
        tail = f"about {say_about(column.distinct)} different values"
    else:
        tail = f"{column.distinct:,} different values"
    return f"{column.type.label}{written}: {tail}."


def _chart(column: ColumnProfile) -> tuple[Chart | None, str]:
    if column.numbers and column.numbers.histogram and column.distinct > 1:
        histogram = column.numbers.histogram
        chart = draw_histogram(histogram, column.numbers.quantiles, title=f"Histogram of {column.name}", has_time=False)
        beyond = [
            f"{say_count(count)} {side}"
            for count, side in ((histogram.below, "below"), (histogram.above, "above"))
            if count
        ]
        note = "Rows by value."
        if beyond:
            note += f" The chart shows the middle 98%; {' and '.join(beyond)} are beyond it."
    elif column.dates and column.distinct > 1:
        histogram = column.dates.histogram
        has_time = column.type is ColumnType.DATETIME
        chart = draw_histogram(
            histogram, column.dates.quantiles, title=f"Histogram of {column.name}", has_time=has_time
        )
        note = f"Rows by {histogram.unit}."
    else:
        return None, ""
    if chart.strip:
        note += " Line: from 5% to 95%; box: the middle half; mark: the median."
    return chart, note


def _top(column: ColumnProfile, how_many: int) -> tuple[TopRow, ...]:
    values = column.top.values[:how_many]
    if not values or (values[0][1] == 1 and column.distinct > len(column.top.values)):
        return ()
    if (column.numbers or column.dates) and values[0][1] < TELLING_SHARE * column.present:
        return ()
    most = values[0][1]
    sign = "≥ " if column.top.max_error else ""
    return tuple(
        TopRow(
            value=say_value(value),
            count=f"{sign}{count:,}",
            share=say_share(count, column.present),
            width=f"{100 * count / most:.1f}%",
        )
        for value, count in values
    )


def _quantiles(column: ColumnProfile) -> tuple[Fact, ...]:
    names = ("Least", "5%", "25%", "Median", "75%", "95%", "Greatest")
    if column.numbers:
        numbers = column.numbers
        values = [say_number(each, 6) for each in (numbers.minimum, *numbers.quantiles, numbers.maximum)]
    elif column.dates:
        names = ("First", *names[1:6], "Last")
        dates = column.dates
        has_time = column.type is ColumnType.DATETIME
        values = [say_moment(each, has_time=has_time) for each in (dates.minimum, *dates.quantiles, dates.maximum)]
    else:
        return ()
    return tuple(Fact(name=name, value=value) for name, value in zip(names, values, strict=True))


def _facts(column: ColumnProfile, profile: Profile) -> tuple[Fact, ...]:
    facts = [Fact(name="Present", value=say_count(column.present))]
    share = f", {say_share(column.missing, profile.rows)}" if column.missing else ""
    facts.append(Fact(name="Missing", value=f"{say_count(column.missing)}{share}"))
    spelled = [f"{spelling} ({count:,})" for spelling, count in column.missing_spellings if spelling]
    if spelled:
        facts.append(Fact(name="Written as", value=", ".join(spelled[:4])))
    facts.append(Fact(name="Distinct", value=_distinct(column)))
    if column.numbers:
        facts.append(Fact(name="Mean", value=say_number(column.numbers.mean)))
        if column.numbers.std is not None:
            facts.append(Fact(name="Standard deviation", value=say_number(column.numbers.std)))
    if column.lengths and column.type is ColumnType.TEXT:
        lengths = column.lengths
        facts.append(Fact(name="Shortest", value=say_plural(lengths.shortest, "character")))
        facts.append(Fact(name="Longest", value=say_plural(lengths.longest, "character")))
        facts.append(Fact(name="Mean length", value=say_number(lengths.mean, 3)))
    return tuple(facts)


def _outliers(column: ColumnProfile) -> str:
    if not column.numbers:
        return ""
    outliers = column.numbers.outliers
    if not outliers.count:
        return f"No outliers: none is {outliers.rule}."
    about = "" if column.numbers.is_exact else "About "
    examples = ", ".join(say_number(each, 6) for each in outliers.examples)
    return (
        f"{about}{say_plural(outliers.count, 'outlier')}, {outliers.rule}: below {say_number(outliers.low, 6)} or "
        f"above {say_number(outliers.high, 6)}." + (f" The farthest: {examples}." if examples else "")
    )


def _exceptions(column: ColumnProfile) -> str:
    if not column.exceptions.count:
        return ""
    examples = ", ".join(f"“{say_value(example, 60)}”" for example in column.exceptions.examples)
    are = "is" if column.exceptions.count == 1 else "are"
    return f"{say_plural(column.exceptions.count, 'value')} {are} of another type: {examples}."
