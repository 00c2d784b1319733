"""Parts new rows into what they have in common and what they don't, so that a thousand of them make a short message.

Jobs that are submitted together differ in little: their ids, their params. Nothing has happened to them yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import JSONField

from jobs.models import Event, Job
from jobs.sql.rows import COLUMNS

JSON_COLUMNS = {
    each.column for each in [*Job._meta.concrete_fields, *Event._meta.concrete_fields] if isinstance(each, JSONField)
}


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """New rows of one table."""

    common: Mapping[str, Any]
    """What is the same in all of them, by column."""
    names: tuple[str, ...]
    """The other columns."""
    rows: Sequence[tuple[Any, ...]]
    """The values of those, row by row."""


def columns_of(jobs: Sequence[Job], varying: Collection[str]) -> dict[str, Sequence[Any]]:
    """List the values of jobs' columns: of those in which they may differ, each job's; of the others, one for all."""
    rows = [vars(job) for job in jobs]
    return {name: [row[name] for row in (rows if name in varying else rows[:1])] for name in COLUMNS}


def parted(columns: Mapping[str, Sequence[Any]], stored: Callable[[Any], Any]) -> Arrivals:
    """Part rows that are given column by column.

    Args:
        columns: of equal lengths, but for those that have one value for all rows.
        stored: writes a value as the vendor has it; JSON that varies is left as it is.
    """
    common, varying = {}, {}
    for name, values in columns.items():
        if is_same(name, values):
            common[name] = stored(values[0])
        else:
            varying[name] = values if name in JSON_COLUMNS else [stored(each) for each in values]
    count = max(map(len, columns.values()))
    rows = list(zip(*varying.values(), strict=True)) if varying else [()] * count
    return Arrivals(common=common, names=tuple(varying), rows=rows)


def is_same(name: str, values: Sequence[Any]) -> bool:
    """Tell whether a column has the same value in all rows.

    To Python `1`, `1.0` and `True` are equal, and in JSON they aren't: there only what is empty is compared by value.
    """
    first = values[0]
    if name in JSON_COLUMNS and first:
        return all(each is first for each in values)
    return bool(first == values[-1]) and values.count(first) == len(values)
