"""What stands out in a profile, in a few sentences for the top of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from .profile import ColumnProfile, ColumnType, Profile
from .wording import join_words, say_count, say_plural, say_share, say_value

MOST_FINDINGS = 6
NAMES_TOLD = 3
MUCH_MISSING = 0.05
ONE_VALUE_SHARE = 0.9


def find_findings(profile: Profile) -> list[str]:
    """Tell what a careful reader would look at first, the gravest first."""
    return list(islice(_all_findings(profile), MOST_FINDINGS)) if profile.rows else []


def _all_findings(profile: Profile) -> Iterator[str]:
    columns = profile.columns
    filled = [each for each in columns if each.type is not ColumnType.EMPTY]
    if empty := [each for each in columns if each.type is ColumnType.EMPTY]:
        yield f"{_names(empty)} {_have(empty)} no values at all."
    if mixed := [each for each in columns if each.exceptions.count]:
        worst = max(mixed, key=lambda each: each.exceptions.count)
        others = f" Exceptions are in {say_plural(len(mixed) - 1, 'other column')} too." if len(mixed) > 1 else ""
        yield (
            f"{_name(worst)} is {worst.type.label.lower()}, but for "
            f"{say_plural(worst.exceptions.count, 'exception')} such as "
            f"“{say_value(worst.exceptions.examples[0], 40)}”.{others}"
        )
    if sparse := [each for each in filled if each.missing > MUCH_MISSING * profile.rows]:
        worst = max(sparse, key=lambda each: each.missing)
        others = f", and {say_plural(len(sparse) - 1, 'other column')} more than 5%" if len(sparse) > 1 else ""
        yield f"{_name(worst)} lacks a value in {say_share(worst.missing, profile.rows)} of the rows{others}."
    if constant := [each for each in filled if each.is_constant and profile.rows > 1]:
        yield f"{_names(constant)} {_have(constant)} one and the same value throughout."
    if lopsided := [each for each in filled if _top_share(each) >= ONE_VALUE_SHARE and not each.is_constant]:
        most = max(lopsided, key=_top_share)
        value, count = most.top.values[0]
        others = f" Likewise {_names([each for each in lopsided if each is not most])}." if len(lopsided) > 1 else ""
        yield (f"In {say_share(count, most.present)} of its rows {_name(most)} is “{say_value(value, 40)}”.{others}")
    if keys := [each for each in filled if each.is_unique]:
        yield f"No value comes twice in {_names(keys)}."
    if strays := [each for each in filled if each.numbers and each.numbers.outliers.count]:
        worst = max(strays, key=lambda each: each.numbers.outliers.count / each.present if each.numbers else 0)
        if worst.numbers:
            count = worst.numbers.outliers.count
            share = say_share(count, worst.present)
            yield f"{_name(worst)} has the most outliers: {say_count(count)}, {share} of its values."


def _top_share(column: ColumnProfile) -> float:
    return column.top.values[0][1] / column.present if column.top.values else 0.0


def _name(column: ColumnProfile) -> str:
    return say_value(column.name, 60)


def _names(columns: Sequence[ColumnProfile]) -> str:
    names = [_name(each) for each in columns[:NAMES_TOLD]]
    if len(columns) > NAMES_TOLD:
        names.append(say_plural(len(columns) - NAMES_TOLD, "other column"))
    return join_words(names)


def _have(columns: Sequence[ColumnProfile]) -> str:
    return "has" if len(columns) == 1 else "have"
