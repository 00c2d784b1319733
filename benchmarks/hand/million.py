"""The drain beside a million jobs in line and a million finished ones, and the same on empty tables.

The rows are copies of a job that was accepted, and of one that was run, with all their events; only ids and places in
line are their own. Those in line come after the ones that are drained.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from uuid import UUID

from benchmarks import backlog, rounds
from benchmarks.backlog import check_first_attempts, halted, submit
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import Comparison
from benchmarks.stack import Servers

if TYPE_CHECKING:  # at run time only once Django is set up
    from django.db.models import Model

CHUNK = 100_000
BEHIND_PRIORITY = -1
SLOWEST = 0.5
"""Of the pace on empty tables; between runs of one thing this machine's paces vary by a third."""
EMPTY = "empty tables"


def drain_beside_many(servers: Servers, owner_id: int, *, rows: int, jobs: int, times: int) -> Finding:
    """Drain on empty tables, fill them, drain again.

    Args:
        servers: what runs.
        owner_id: whose jobs.
        rows: how many are in line, and how many are finished.
        jobs: how many are drained, each time.
        times: how often, of each.
    """
    many = f"{rows:,} in line, {rows:,} finished"
    paces = Comparison(title="Drain of no-op jobs", unit="jobs/s", figures={EMPTY: [], many: []})
    with halted(servers):
        _empty()
    for _ in range(times):
        paces.figures[EMPTY].append(_drain(servers, owner_id, jobs))
    (finished,), _ = backlog.timed_drain(servers, "bench.noop", 1, owner_id)
    with halted(servers), halted(servers, "sweeper"):
        (pending,) = submit("bench.noop", 1, owner_id, priority=BEHIND_PRIORITY)
        _copy(pending, 1, rows)
        _copy(finished, rows + 1, rows)
        _settle()
    for _ in range(times):
        paces.figures[many].append(_drain(servers, owner_id, jobs))
    paces.print(many, beside=[EMPTY])
    ratio = rounds.percentile(paces.figures[many], 50) / rounds.percentile(paces.figures[EMPTY], 50)
    return Finding(
        title=f"{jobs:,} jobs drained beside {2 * rows:,} others",
        lines=[f"at {ratio:.2f} of the pace on empty tables"],
        faults=check(f"it is under {SLOWEST:g}", ratio >= SLOWEST),
    )


def _drain(servers: Servers, owner_id: int, jobs: int) -> float:
    ids, seconds = backlog.timed_drain(servers, "bench.noop", jobs, owner_id)
    with halted(servers):  # it would go on with those behind
        check_first_attempts(ids)
    print(f"{jobs / seconds:,.0f} jobs/s", file=sys.stderr, flush=True)
    return jobs / seconds


def _empty() -> None:
    from django.core.management.color import no_style
    from django.db import connection

    from jobs.models import Event, Job

    tables = [Event._meta.db_table, Job._meta.db_table]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=True))


def _copy(job_id: UUID, first: int, count: int) -> None:
    """Copy a job and its events so many times, numbered from `first`, which is their turn as well."""
    from django.db import connection, transaction

    from jobs.models import Event, Job

    if connection.vendor == "sqlite":
        numbers = "WITH RECURSIVE n(n) AS (SELECT %s UNION ALL SELECT n + 1 FROM n WHERE n < %s)"
        new_id = "'01900000000070008000' || printf('%%012x', n)"
    else:
        numbers = "WITH n AS (SELECT n FROM generate_series(%s::bigint, %s::bigint) AS n)"
        new_id = "('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
    own = {"id": new_id, "turn": "n"}
    columns = _columns(Job)
    of_event = [each for each in _columns(Event) if each not in ("id", "job_id")]
    template = Job._meta.pk.get_db_prep_value(job_id, connection)
    copy_jobs = f"""{numbers} INSERT INTO jobs_job ({", ".join(columns)})
        SELECT {", ".join(own.get(each, f"t.{each}") for each in columns)}
        FROM n, jobs_job AS t WHERE t.id = %s ORDER BY n"""  # noqa: S608 - our own columns
    copy_events = f"""{numbers} INSERT INTO jobs_event (job_id, {", ".join(of_event)})
        SELECT {new_id}, {", ".join(f"t.{each}" for each in of_event)}
        FROM n, jobs_event AS t WHERE t.job_id = %s ORDER BY n, t.sequence"""  # noqa: S608 - our own columns
    for place in range(first, first + count, CHUNK):
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in (copy_jobs, copy_events):
                cursor.execute(statement, [place, min(place + CHUNK, first + count) - 1, template])
        print(f"{place - first:,} of {count:,} copies", file=sys.stderr, flush=True)


def _columns(model: type[Model]) -> list[str]:
    return [each.column for each in model._meta.concrete_fields if each.column]


def _settle() -> None:
    """Bring the tables into the state in which they'd be after some time: statistics taken, nothing left to write."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            cursor.execute("VACUUM (ANALYZE) jobs_job, jobs_event")
            cursor.execute("CHECKPOINT")
