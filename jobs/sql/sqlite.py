"""The hot statements for SQLite 3.38 and later, whose one writer needs no row locks.

Each method runs inside its caller's transaction, which holds the write lock from its `BEGIN IMMEDIATE` on. A SQLite
database lives on one machine, so the process's clock is the database's. What `RETURNING` gives is fetched before the
next statement, and has no order.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count, takewhile
from typing import Any
from uuid import UUID

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.utils import timezone

from jobs.models import Job
from jobs.representation import as_time, changing_state
from jobs.sql.arrivals import JSON_COLUMNS, Arrivals, columns_of, parted
from jobs.sql.rows import COLUMNS, jobs_of
from jobs.sql.statements import Exchanged, Renewal, Renewed, Settled, Settlement, Want
from jobs.sql.turns import firsts

# A hand ends before the first job that has to be alone: see the same in `postgresql`.
DUE = """
SELECT id, kind NOT IN (SELECT value FROM json_each(%(quick_kinds)s)) OR alone OR crashes > 0 OR max_attempts = 1
    OR worker IS NOT NULL
FROM jobs_job
WHERE queue = %(queue)s AND status = 'PENDING' AND ready_at IS NOT NULL
    AND (worker IS NULL OR lease_until < %(now)s)
    AND kind IN (SELECT value FROM json_each(%(kinds)s))
    AND (start_by IS NULL OR attempt > 0 OR start_by > %(now)s) AND (finish_by IS NULL OR finish_by > %(now)s)
    AND NOT EXISTS (SELECT 1 FROM jobs_pausedqueue WHERE name = %(queue)s)
ORDER BY priority DESC, turn, id LIMIT %(count)s
"""

CLAIM = f"""
UPDATE jobs_job AS j SET
    status = CASE f.value WHEN 0 THEN 'RUNNING' ELSE 'PENDING' END,
    started_at = CASE f.value WHEN 0 THEN %(now)s ELSE started_at END,
    progress = CASE f.value WHEN 0 THEN NULL ELSE progress END,
    attempt = attempt + (f.value = 0), sequence = sequence + (f.value = 0), version = version + (f.value = 0),
    ready_at = CASE f.value WHEN 0 THEN NULL ELSE ready_at END,
    fence = fence + 1, worker = %(worker)s, alone = %(is_alone)s, lease_until = %(lease_until)s
FROM json_each(%(places)s) AS f
WHERE j.id = f.key
RETURNING {", ".join(COLUMNS)}
"""  # noqa: S608 - our own columns

# As in `postgresql`: a retry of a job that was to be cancelled ends it, and a begin may be told with its end.
SETTLE = """
UPDATE jobs_job AS j SET
    status = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE f.status END,
    result = f.result,
    error = CASE WHEN f.status = 'COMPLETED' THEN NULL ELSE COALESCE(f.error, j.error) END,
    traceback = f.traceback,
    failures = j.failures + f.failed,
    progress = CASE WHEN f.begun THEN f.progress ELSE COALESCE(f.progress, j.progress) END,
    run_at = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NULL THEN f.run_at ELSE j.run_at END,
    finished_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN f.ended_at END,
    expires_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN f.expires_at END,
    started_at = CASE WHEN f.begun THEN f.began_at ELSE j.started_at END,
    attempt = j.attempt + f.begun,
    sequence = j.sequence + 1 + f.begun,
    version = MAX(j.version, f.version) + 1 + f.begun,
    ready_at = NULL, lease_until = NULL, worker = NULL, gate = 0
FROM (
    SELECT value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'status' AS status,
        value ->> 'begun' AS begun, value ->> 'began_at' AS began_at, value ->> 'ended_at' AS ended_at,
        value ->> 'result' AS result, value ->> 'error' AS error, value ->> 'traceback' AS traceback,
        value ->> 'failed' AS failed, value ->> 'progress' AS progress, value ->> 'version' AS version,
        value ->> 'run_at' AS run_at, value ->> 'expires_at' AS expires_at
    FROM json_each(%(ended)s)
) AS f
WHERE j.id = f.id AND j.fence = f.fence AND j.worker IS NOT NULL
    AND j.status = CASE WHEN f.begun THEN 'PENDING' ELSE 'RUNNING' END
RETURNING id, status, sequence, attempt, version, progress, error, run_at, started_at, finished_at, expires_at,
    cancel_requested_at
"""

BEAT = """
UPDATE jobs_job AS j SET
    lease_until = %(lease_until)s,
    progress = COALESCE(f.progress, j.progress),
    version = CASE WHEN f.progress IS NULL AND f.lines = 0 THEN j.version ELSE MAX(j.version, f.version) + 1 END,
    sequence = j.sequence + f.lines, log_lines = j.log_lines + f.lines
FROM (
    SELECT value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'progress' AS progress,
        value ->> 'version' AS version, value ->> 'lines' AS lines
    FROM json_each(%(renewals)s)
) AS f
WHERE j.id = f.id AND j.fence = f.fence AND j.status = 'RUNNING'
RETURNING id, version, sequence, cancel_requested_at IS NOT NULL
"""

EVENT = """
INSERT INTO jobs_event (job_id, owner_id, team_id, kind, sequence, type, data, at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""

TURNS = f"""
WITH lanes AS (
    SELECT value ->> 0 AS owner_id, value ->> 1 AS queue, value ->> 2 AS priority, value ->> 3 AS lane
    FROM json_each(%(lanes)s)
), {firsts("MAX")}
SELECT owner_id, queue, priority, lane, turn FROM firsts
"""  # noqa: S608 - no value of anybody's

PUT_IN_LINE = """
UPDATE jobs_job SET turn = %s, gate = %s, ready_at = %s WHERE id = %s AND status = 'PENDING'
"""

Row = Sequence[Any]


class SQLite:
    """Each method is a few statements under one write lock."""

    def now(self) -> datetime:
        return timezone.now()

    def accept(self, jobs: Sequence[Job]) -> None:
        turns = self._turns([(job.id.hex, job.owner_id, job.queue, job.priority, job.kind, job.gate) for job in jobs])
        for job in jobs:
            job.turn = turns[job.id.hex]
        columns = columns_of(jobs)
        # Of what can change, new jobs differ in this alone.
        states = {run_at: changing_state(job) for run_at, job in {job.run_at: job for job in jobs}.items()}
        events = {
            "job_id": columns["id"],
            "owner_id": columns["owner_id"],
            "team_id": columns["team_id"],
            "kind": columns["kind"],
            "sequence": columns["sequence"],
            "type": ["job.accepted"] * len(jobs),
            "data": [states[job.run_at] for job in jobs],
            "at": columns["created_at"],
        }
        insert("jobs_job", parted(columns, as_stored))
        insert("jobs_event", parted(events, as_stored))

    def exchange(self, settlements: Sequence[Settlement], want: Want | None) -> Exchanged:
        now = self.now()
        settled, events = self._settle(settlements, now) if settlements else ([], [])
        claimed = self._claim(want, now) if want else []
        events += [event_row(job, job.sequence, "job.started", changing_state(job), now) for job in claimed[:1]]
        if events:
            with connection.cursor() as cursor:
                cursor.executemany(EVENT, events)
        return Exchanged(settled=settled, claimed=claimed)

    def _settle(self, settlements: Sequence[Settlement], now: datetime) -> tuple[list[Settled], list[Row]]:
        ended = as_json([settlement_row(each, now) for each in settlements])
        moved = {row[0]: row[1:] for row in fetched(SETTLE, {"ended": ended})}
        settled, events = [], []
        for its in settlements:
            if its.id.hex not in moved:
                continue
            status, sequence, attempt, version, progress, error, *moments = moved[its.id.hex]
            settled.append(Settled(id=its.id, status=status, sequence=sequence))
            run_at, started_at, finished_at, expires_at, cancel_requested_at = (as_rfc3339(each) for each in moments)
            data = {
                "status": status,
                "progress": progress and json.loads(progress),
                "error": error and json.loads(error),
                "attempt": attempt,
                "version": version,
                "runAt": run_at,
                "startedAt": started_at,
                "finishedAt": finished_at,
                "expiresAt": expires_at,
                "cancelRequestedAt": cancel_requested_at,
            }
            subject = its.job
            if its.begun is not None:
                begun = {**its.begun, "startedAt": started_at}
                began_at = now - timedelta(seconds=its.began_ago)
                events.append(event_row(subject, sequence - 1, "job.started", begun, began_at))
            kind = "job.retrying" if status == "PENDING" else f"job.{status.lower()}"
            events.append(event_row(subject, sequence, kind, data, now - timedelta(seconds=its.ended_ago)))
        return settled, events

    def _claim(self, want: Want, now: datetime) -> list[Job]:
        due = fetched(
            DUE,
            {
                "queue": want.queue,
                "kinds": json.dumps(list(want.kinds)),
                "quick_kinds": json.dumps(list(want.quick_kinds)),
                "count": want.count,
                "now": as_text(now),
            },
        )
        hand = due[:1]
        if due and not due[0][1]:
            hand += takewhile(lambda row: not row[1], due[1:])
        if not hand:
            return []
        places = {pk: place for place, (pk, _) in enumerate(hand)}
        lease_until = as_text(now + timedelta(seconds=want.lease_seconds))
        claimed = fetched(
            CLAIM,
            {
                "places": json.dumps(places),
                "is_alone": len(hand) == 1,
                "worker": want.worker.hex,
                "now": as_text(now),
                "lease_until": lease_until,
            },
        )
        return sorted(jobs_of(claimed), key=lambda job: places[job.id.hex])

    def beat(self, renewals: Sequence[Renewal], lease_seconds: float) -> list[Renewed]:
        rows = as_json(
            [{**vars(each), "id": each.id.hex, "progress": as_json_text(each.progress)} for each in renewals]
        )
        lease_until = as_text(self.now() + timedelta(seconds=lease_seconds))
        return [
            Renewed(id=UUID(pk), version=version, sequence=sequence, is_cancelled=bool(is_cancelled))
            for pk, version, sequence, is_cancelled in fetched(BEAT, {"renewals": rows, "lease_until": lease_until})
        ]

    def make_due(self, ids: Sequence[UUID], gates: Mapping[str, int]) -> None:
        jobs = Job.objects.filter(pk__in=ids, status="PENDING").only("id", "owner_id", "queue", "priority", "kind")
        coming = [(job.id.hex, job.owner_id, job.queue, job.priority, job.kind, gates.get(job.kind, 0)) for job in jobs]
        turns, now = self._turns(coming), as_text(self.now())
        rows = [(turns[pk], gate, None if gate else now, pk) for pk, _, _, _, _, gate in coming]
        with connection.cursor() as cursor:
            cursor.executemany(PUT_IN_LINE, rows)

    def lock_kind(self, kind: str) -> None:
        """Do nothing: a transaction that writes is the only one."""

    def _turns(self, coming: Sequence[Row]) -> dict[str, int]:
        lanes: dict[Row, list[str]] = defaultdict(list)
        for pk, owner_id, queue, priority, kind, gate in sorted(coming, key=lambda row: str(row[0])):
            lanes[owner_id, queue, priority, kind if gate else ""].append(pk)
        turns: dict[str, int] = {}
        for *lane, first in fetched(TURNS, {"lanes": json.dumps(list(lanes))}):
            turns.update(zip(lanes[tuple(lane)], count(first)))
        return turns


def fetched(statement: str, params: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return list(cursor.fetchall())


def insert(table: str, arrivals: Arrivals) -> None:
    """Insert rows by one statement."""
    statement = insertion(table, tuple(arrivals.common), arrivals.names)
    with connection.cursor() as cursor:
        cursor.execute(statement, {**arrivals.common, "rows": json.dumps(arrivals.rows, allow_nan=False)})


@lru_cache
def insertion(table: str, common: tuple[str, ...], varying: tuple[str, ...]) -> str:
    """Write the statement that inserts rows which have some columns in common."""
    values = [f"%({name})s" for name in common]
    values += [f"value {'->' if name in JSON_COLUMNS else '->>'} {place}" for place, name in enumerate(varying)]
    return f"""
    INSERT INTO {table} ({", ".join(common + varying)})
    SELECT {", ".join(values)} FROM json_each(%(rows)s)
    """  # noqa: S608 - our own tables and columns


def event_row(job: Job, sequence: int, kind: str, data: dict[str, Any], at: datetime) -> Row:
    """Give the values of `EVENT`."""
    return (job.id.hex, job.owner_id, job.team_id, job.kind, sequence, kind, as_json(data), as_text(at))


def settlement_row(settlement: Settlement, now: datetime) -> dict[str, object]:
    """Write a settlement's values as SQLite stores them: hexadecimal ids, JSON and times as text."""

    def at(seconds: float) -> str:
        return as_text(now + timedelta(seconds=seconds))

    ends = settlement.status != "PENDING"
    return {
        "id": settlement.id.hex,
        "fence": settlement.fence,
        "status": settlement.status,
        "begun": int(settlement.begun is not None),
        "began_at": at(-settlement.began_ago) if settlement.begun else None,
        "ended_at": at(-settlement.ended_ago),
        "result": as_json_text(settlement.result),
        "error": as_json_text(settlement.error),
        "traceback": settlement.traceback,
        "failed": settlement.failed,
        "progress": as_json_text(settlement.progress),
        "version": settlement.version,
        "run_at": None if ends else at(settlement.delay_seconds),
        "expires_at": at(settlement.retention_seconds),
    }


def as_stored(value: Any) -> Any:
    """Write a value as Django's SQLite backend stores it."""
    match value:
        case UUID():
            return value.hex
        case datetime():
            return as_text(value)
        case dict() | list():
            return json.dumps(value, allow_nan=False)
        case _:
            return value


def as_text(moment: datetime) -> str:
    """Write a time as Django's SQLite backend stores it: in UTC, without a zone."""
    return str(moment.astimezone(UTC).replace(tzinfo=None))


def as_rfc3339(stored: str | datetime | None) -> str | None:
    """Write a stored time, which is in UTC, as events have it."""
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return as_time(moment.replace(tzinfo=UTC)) if moment else None


def as_json(value: object) -> str:
    return json.dumps(value, cls=DjangoJSONEncoder)


def as_json_text(value: object) -> str | None:
    return None if value is None else as_json(value)
