"""Makes a table as full as after a long time: copies of one job, a hundred thousand in a statement."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:  # at run time only once Django is set up
    from django.db.models import Model

CHUNK = 100_000


def copy(
    job_id: UUID, first: int, count: int, *, own: Mapping[str, str] | None = None, with_events: bool = True
) -> None:
    """Copy a job so many times.

    Args:
        job_id: what is copied.
        first: the number of the first copy; ids are made of numbers, and are smaller than that of any new job.
        count: how many.
        own: SQL by column where a copy differs, made of its number `n`; its turn is `n` unless it is said here.
        with_events: whether each gets the job's events as well.
    """
    from django.db import connection, transaction

    from jobs.models import Event, Job

    if connection.vendor == "sqlite":
        numbers = "WITH RECURSIVE n(n) AS (SELECT %s UNION ALL SELECT n + 1 FROM n WHERE n < %s)"
        new_id = "'01900000000070008000' || printf('%%012x', n)"
    else:
        numbers = "WITH n AS (SELECT n FROM generate_series(%s::bigint, %s::bigint) AS n)"
        new_id = "('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
    values = {"turn": "n", **(own or {}), "id": new_id}
    columns = _columns(Job)
    of_event = [each for each in _columns(Event) if each not in ("id", "job_id")]
    template = Job._meta.pk.get_db_prep_value(job_id, connection)
    copy_jobs = f"""{numbers} INSERT INTO jobs_job ({", ".join(columns)})
        SELECT {", ".join(values.get(each, f"t.{each}") for each in columns)}
        FROM n, jobs_job AS t WHERE t.id = %s ORDER BY n"""  # noqa: S608 - our own columns
    copy_events = f"""{numbers} INSERT INTO jobs_event (job_id, {", ".join(of_event)})
        SELECT {new_id}, {", ".join(f"t.{each}" for each in of_event)}
        FROM n, jobs_event AS t WHERE t.job_id = %s ORDER BY n, t.sequence"""  # noqa: S608 - our own columns
    for place in range(first, first + count, CHUNK):
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in (copy_jobs, copy_events) if with_events else (copy_jobs,):
                cursor.execute(statement, [place, min(place + CHUNK, first + count) - 1, template])
        print(f"{min(place + CHUNK - first, count):,} of {count:,} copies", file=sys.stderr, flush=True)


def empty_tables() -> None:
    """Remove all jobs and events, whatever refers to them."""
    from django.core.management.color import no_style
    from django.db import connection

    from jobs.models import Event, Job

    tables = [Event._meta.db_table, Job._meta.db_table]
    with connection.constraint_checks_disabled():  # SQLite would look for what refers to each row
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=True))


def settle() -> None:
    """Bring the tables into the state in which they'd be after some time: statistics taken, nothing left to write."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            cursor.execute("VACUUM (ANALYZE) jobs_job, jobs_event")
            cursor.execute("CHECKPOINT")


def _columns(model: type[Model]) -> Sequence[str]:
    return [each.column for each in model._meta.concrete_fields if each.column]
