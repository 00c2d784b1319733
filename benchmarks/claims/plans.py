"""How the database finds the jobs of a claim."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING
from uuid import uuid4

from django.db import connection, transaction

if TYPE_CHECKING:  # at run time only once Django is set up
    from jobs.sql.statements import Want

HAND = 32
"""How many jobs a claim takes at most."""
WIDTH = 110


def plan_of_claim(kind: str) -> Sequence[str]:
    """Explain the select by which a claim of a hand finds its jobs. Nothing stays claimed.

    On PostgreSQL it is run, so that the plan tells of the rows and pages that were looked at.

    Args:
        kind: of the jobs that are claimed.
    """
    from jobs.kinds import get_kind
    from jobs.lifecycle import wanted

    want = wanted(get_kind(kind).queue, uuid4(), HAND, [kind])
    return _on_sqlite(want) if connection.vendor == "sqlite" else _on_postgresql(want)


def _on_sqlite(want: Want) -> Sequence[str]:
    from jobs.sql.sqlite import DUE, SQLite, arguments

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {DUE}", arguments(want, SQLite().now()))
        return _as_lines([f"{'  ' * bool(parent)}{detail}" for _, parent, _, detail in cursor.fetchall()])


def _on_postgresql(want: Want) -> Sequence[str]:
    from jobs.sql.postgresql import CLAIM, arguments

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {CLAIM}", arguments(want))
        lines = [line for (line,) in cursor.fetchall()]
        transaction.set_rollback(True)
    first, *rest = dropwhile(lambda line: line.strip() != "CTE due", lines)
    indent = len(first) - len(first.lstrip())
    return _as_lines([line[indent + 2 :] for line in takewhile(lambda line: line[indent + 1] == " ", rest)])


def _as_lines(plan: Sequence[str]) -> Sequence[str]:
    """Leave out what is too long to be read: the kinds, and what is asked of each row."""
    return [line if len(line) <= WIDTH else f"{line[:WIDTH]} …" for line in plan]
