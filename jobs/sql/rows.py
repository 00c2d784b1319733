"""Makes models of what raw statements return, as Django makes them of its own queries' rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import JSONField, Model
from django.db.models.base import ModelState
from django.db.models.expressions import Col

from jobs.models import Job

Converter = Callable[[Any, Col, Any], Any]
M = TypeVar("M", bound=Model)


class Reader(Generic[M]):
    """Reads rows that begin with all `columns` of a model."""

    def __init__(self, model: type[M]) -> None:
        self.columns = [each.column for each in model._meta.concrete_fields if each.column]
        self._model = model
        self._names = [each.attname for each in model._meta.concrete_fields]

    def values_of(self, rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Give the values of each row's fields, by their names."""
        database = connections[DEFAULT_DB_ALIAS]
        converters = _converters(self._model, database.vendor)
        for row in rows:
            values = dict(zip(self._names, row, strict=False))
            for name, column, convert in converters:
                if values[name] is not None:
                    values[name] = convert(values[name], column, database)
            yield values

    def of(self, row: Sequence[Any]) -> M:
        """Make a row of the model."""
        (values,) = self.values_of([row])
        return self._model.from_db(DEFAULT_DB_ALIAS, self._names, list(values.values()))


JOBS = Reader(Job)
COLUMNS = JOBS.columns
"""The columns of a job, in the order that `jobs_of` expects them."""
SELECTED = ", ".join(f"NULL AS {each}" if each in ("ready_at", "lease_until") else each for each in COLUMNS)
"""The same for a worker: what it doesn't need is left out, for to read a time takes Django's own code in Python."""


def jobs_of(rows: Iterable[Sequence[Any]]) -> list[Job]:
    """Make jobs of rows that begin with `COLUMNS`.

    As `Model.from_db` makes them, but without its loop over all fields, which would take a tenth of a drain's time.
    """
    return [job_of(values) for values in JOBS.values_of(rows)]


def job_of(values: dict[str, Any]) -> Job:
    """Make a job of the values of all its fields, which are or will be stored as they are; the dict becomes the job's.

    A tenth of what the model's own constructor takes, which looks at each field by itself.
    """
    job = Job.__new__(Job)
    values["_state"] = state = ModelState()
    state.adding, state.db = False, DEFAULT_DB_ALIAS
    job.__dict__ = values
    return job


@cache
def _converters(model: type[Model], _vendor: str) -> list[tuple[str, Col, Converter]]:
    """List what Django does to a stored value of each column before a field sees it."""
    database = connections[DEFAULT_DB_ALIAS]
    found: list[tuple[str, Col, Converter]] = []
    for field in model._meta.concrete_fields:
        column = field.get_col(model._meta.db_table)  # a foreign key's is of the type of what it names
        if isinstance(field, JSONField):
            found.append((field.attname, column, _read_json))
            continue
        for convert in [*database.ops.get_db_converters(column), *column.get_db_converters(database)]:
            found.append((field.attname, column, convert))
    return found


def _read_json(text: str, _column: Col, _database: Any) -> Any:
    """Read what both vendors give as text; most of it is empty."""
    match text:
        case "{}":
            return {}
        case "[]":
            return []
        case _:
            return json.loads(text)
