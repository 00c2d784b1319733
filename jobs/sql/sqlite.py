"""The hot statements for SQLite 3.38 and later, whose one writer needs no row locks.

Each method runs inside its caller's transaction, which holds the write lock from its `BEGIN IMMEDIATE` on. A SQLite
database lives on one machine, so the process's clock is the database's. What `RETURNING` gives is fetched before the
next statement, and has no order.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, count, takewhile
from typing import Any
from uuid import UUID

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.utils import timezone

from jobs.kinds import kind_names
from jobs.models import Job
from jobs.representation import as_time, changing_state
from jobs.sql.arrivals import JSON_COLUMNS, Arrivals, columns_of, parted
from jobs.sql.rows import SELECTED
from jobs.sql.statements import Exchanged, Renewal, Renewed, Settled, Settlement, Want
from jobs.sql.turns import firsts

# A hand ends before the first job that has to be alone: see the same in `postgresql`. A paused queue has no name here,
# or the whole of its line would be walked in vain.
DUE = """
SELECT id, kind NOT IN (SELECT value FROM json_each(%(quick_kinds)s)) OR alone OR crashes > 0 OR max_attempts = 1
    OR worker IS NOT NULL, (julianday(%(now)s) - julianday(ready_at)) * 86400
FROM jobs_job
WHERE queue = (SELECT %(queue)s WHERE NOT EXISTS (SELECT 1 FROM jobs_pausedqueue WHERE name = %(queue)s))
    AND status = 'PENDING' AND ready_at IS NOT NULL
    AND (worker IS NULL OR lease_until < %(now)s)
    AND kind IN (SELECT value FROM json_each(%(kinds)s))
    AND (start_by IS NULL OR attempt > 0 OR start_by > %(now)s) AND (finish_by IS NULL OR finish_by > %(now)s)
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
RETURNING {SELECTED}
"""  # noqa: S608 - our own columns

# As in `postgresql`: a retry of a job that was to be cancelled ends it, and a begin may be told with its end.
SETTLE = """
UPDATE jobs_job AS j SET
    status = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE f.status END,
    result = f.result,
    error = CASE WHEN f.status = 'COMPLETED' THEN NULL ELSE COALESCE(f.error, j.error) END,
    traceback = f.traceback,
    failures = j.failures + f.failed,
    progress = CASE WHEN f.begun IS NOT NULL THEN f.progress ELSE COALESCE(f.progress, j.progress) END,
    run_at = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NULL THEN f.run_at ELSE j.run_at END,
    finished_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN f.ended_at END,
    expires_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN f.expires_at END,
    started_at = CASE WHEN f.begun IS NOT NULL THEN f.began_at ELSE j.started_at END,
    attempt = j.attempt + (f.begun IS NOT NULL),
    sequence = j.sequence + 1 + (f.begun IS NOT NULL),
    version = MAX(j.version, f.version) + 1 + (f.begun IS NOT NULL),
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
    AND j.status = CASE WHEN f.begun IS NULL THEN 'RUNNING' ELSE 'PENDING' END
RETURNING id, status, sequence
"""


def rfc3339(moment: str) -> str:
    """Write a column's time as `representation.as_time` does; Django leaves microseconds out that are none."""
    return f"""(replace({moment}, ' ', 'T') || CASE length({moment}) WHEN 19 THEN '.000000Z' ELSE 'Z' END)"""


STATE = f"""json_object('status', j.status, 'progress', json(j.progress), 'error', json(j.error), 'attempt', j.attempt,
    'version', j.version, 'runAt', {rfc3339("j.run_at")}, 'startedAt', {rfc3339("j.started_at")},
    'finishedAt', {rfc3339("j.finished_at")}, 'expiresAt', {rfc3339("j.expires_at")},
    'cancelRequestedAt', {rfc3339("j.cancel_requested_at")})"""
"""What of a job can change, as `representation.changing_state` takes it down."""

# Events are told once the rows have moved.
TELL_OF_BEGUN = f"""
INSERT INTO jobs_event (job_id, owner_id, team_id, kind, sequence, type, data, at)
SELECT j.id, j.owner_id, j.team_id, j.kind, j.sequence, 'job.started', {STATE}, j.started_at
FROM jobs_job AS j WHERE j.id = %(id)s
"""  # noqa: S608 - our own columns

TELL_OF_ENDED = f"""
INSERT INTO jobs_event (job_id, owner_id, team_id, kind, sequence, type, data, at)
SELECT j.id, j.owner_id, j.team_id, j.kind, j.sequence - f.back,
    CASE WHEN f.back THEN 'job.started' WHEN j.status = 'PENDING' THEN 'job.retrying'
        ELSE 'job.' || lower(j.status) END,
    CASE WHEN f.back THEN json_set(f.begun, '$.startedAt', {rfc3339("j.started_at")})
        ELSE {STATE} END,
    CASE WHEN f.back THEN j.started_at ELSE f.ended_at END
FROM (
    SELECT e.key AS place, e.value ->> 'id' AS id, e.value ->> 'begun' AS begun, e.value ->> 'ended_at' AS ended_at,
        b.value AS back
    FROM json_each(%(ended)s) AS e, json_each('[1, 0]') AS b
    WHERE b.value = 0 OR e.value ->> 'begun' IS NOT NULL
) AS f CROSS JOIN jobs_job AS j ON j.id = f.id
ORDER BY f.place, f.back DESC
"""  # noqa: S608 - our own columns

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

TURNS = f"""
WITH lanes AS (
    SELECT value ->> 0 AS owner_id, value ->> 1 AS queue, value ->> 2 AS priority, value ->> 3 AS lane
    FROM json_each(%(lanes)s)
), {firsts("MAX", "j.kind IN (SELECT value FROM json_each(%(kinds)s))")}
SELECT owner_id, queue, priority, lane, turn FROM firsts
"""  # noqa: S608 - no value of anybody's

PUT_IN_LINE = """
UPDATE jobs_job SET turn = %s, gate = %s, ready_at = %s WHERE id = %s AND status = 'PENDING'
"""

Row = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Written:
    """Settlements as `SETTLE` reads them."""

    settlements: Sequence[Settlement]
    rows: Sequence[dict[str, Any]]
    text: str


class SQLite:
    """Each method is a few statements under one write lock."""

    def now(self) -> datetime:
        return timezone.now()

    def accept(self, alike: Sequence[Sequence[Job]], varying: Collection[str]) -> None:
        lanes: dict[Row, list[Job]] = defaultdict(list)
        for some in alike:
            job = some[0]
            lanes[job.owner_id, job.queue, job.priority, job.kind if job.gate else ""] += some
        jobs = list(chain.from_iterable(alike))
        for job, turn in numbered(lanes):
            job.turn = turn
        columns = columns_of(jobs, {*varying, "turn"}) | {"id": [job.id.hex for job in jobs]}
        # Of what can change, new jobs differ in this alone.
        state = changing_state(jobs[0])
        states = {run_at: {**state, "runAt": as_time(run_at)} for run_at in set(columns["run_at"])}
        events = {
            "job_id": columns["id"],
            "owner_id": columns["owner_id"],
            "team_id": columns["team_id"],
            "kind": columns["kind"],
            "sequence": columns["sequence"],
            "type": ["job.accepted"],
            "data": [states[run_at] for run_at in columns["run_at"]],
            "at": columns["created_at"],
        }
        insert("jobs_job", parted(columns, as_stored))
        insert("jobs_event", parted(events, as_stored))

    def written(self, settlements: Sequence[Settlement]) -> Written:
        now, since = self.now(), time.monotonic()
        rows = [settlement_row(each, now, since) for each in settlements]
        return Written(settlements=settlements, rows=rows, text=json.dumps(rows))

    def exchange(self, settlements: Written, want: Want | None) -> Exchanged:
        settled = self._settle(settlements) if settlements.rows else []
        claimed, waits = self._claim(want) if want else ([], [])
        return Exchanged(settled=settled, claimed=claimed, waits=waits)

    def _settle(self, ends: Written) -> list[Settled]:
        moved = {pk: (status, sequence) for pk, status, sequence in fetched(SETTLE, {"ended": ends.text})}
        is_whole = len(moved) == len(ends.rows)
        text = ends.text if is_whole else json.dumps([row for row in ends.rows if row["id"] in moved])
        execute(TELL_OF_ENDED, {"ended": text})
        return [
            Settled(id=each.id, status=its[0], sequence=its[1])
            for each in ends.settlements
            if (its := moved.get(each.id.hex))
        ]

    def _claim(self, want: Want) -> tuple[list[Row], list[float]]:
        now = self.now()
        due = fetched(DUE, arguments(want, now))
        together = list(takewhile(lambda row: not row[1], due))
        hand = together or (due[:1] if want.begins else [])
        if not hand:
            return [], []
        places = {pk: place for place, (pk, *_) in enumerate(hand, start=0 if want.begins else 1)}
        lease_until = as_text(now + timedelta(seconds=want.lease_seconds))
        claimed = fetched(
            CLAIM,
            {
                "places": json.dumps(places),
                "is_alone": want.begins and len(hand) == 1,
                "worker": want.worker.hex,
                "now": as_text(now),
                "lease_until": lease_until,
            },
        )
        if want.begins:
            execute(TELL_OF_BEGUN, {"id": hand[0][0]})
        return sorted(claimed, key=lambda row: places[row[0]]), [seconds for *_, seconds in hand]

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
        lanes: dict[Row, list[Job]] = defaultdict(list)
        for job in sorted(jobs, key=lambda job: job.id.hex):
            lanes[job.owner_id, job.queue, job.priority, job.kind if gates.get(job.kind) else ""].append(job)
        now = as_text(self.now())
        rows = []
        for job, turn in numbered(lanes):
            gate = gates.get(job.kind, 0)
            rows.append((turn, gate, None if gate else now, job.id.hex))
        with connection.cursor() as cursor:
            cursor.executemany(PUT_IN_LINE, rows)

    def lock_kind(self, kind: str) -> None:
        """Do nothing: a transaction that writes is the only one."""


def numbered(lanes: Mapping[Row, Sequence[Job]]) -> Iterator[tuple[Job, int]]:
    """Give jobs their turns, by lane: of a user, a queue, a priority, and a kind where its gate is meant."""
    values = {"lanes": json.dumps(list(lanes)), "kinds": json.dumps(kind_names())}
    for *lane, first in fetched(TURNS, values):
        yield from zip(lanes[tuple(lane)], count(first))


def arguments(want: Want, now: datetime) -> dict[str, Any]:
    """Give the values of `DUE`."""
    return {
        "queue": want.queue,
        "kinds": json.dumps(list(want.kinds)),
        "quick_kinds": json.dumps(list(want.quick_kinds)),
        "count": want.count,
        "now": as_text(now),
    }


def execute(statement: str, params: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


def fetched(statement: str, params: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return list(cursor.fetchall())


def insert(table: str, arrivals: Arrivals) -> None:
    """Insert rows by one statement."""
    statement = insertion(table, tuple(arrivals.common), arrivals.names)
    execute(statement, {**arrivals.common, "rows": json.dumps(arrivals.rows, allow_nan=False)})


@lru_cache
def insertion(table: str, common: tuple[str, ...], varying: tuple[str, ...]) -> str:
    """Write the statement that inserts rows which have some columns in common."""
    values = [f"%({name})s" for name in common]
    values += [f"value {'->' if name in JSON_COLUMNS else '->>'} {place}" for place, name in enumerate(varying)]
    return f"""
    INSERT INTO {table} ({", ".join(common + varying)})
    SELECT {", ".join(values)} FROM json_each(%(rows)s)
    """  # noqa: S608 - our own tables and columns


def settlement_row(settlement: Settlement, now: datetime, since: float) -> dict[str, Any]:
    """Write a settlement's values as SQLite stores them: hexadecimal ids, JSON and times as text.

    Args:
        settlement: how an attempt ends.
        now: the present time.
        since: the same on this process's monotonic clock.
    """
    utc = now.astimezone(UTC).replace(tzinfo=None)

    def at(seconds: float) -> str:
        return str(utc + timedelta(seconds=seconds))

    ends = settlement.status != "PENDING"
    return {
        "id": settlement.id.hex,
        "fence": settlement.fence,
        "status": settlement.status,
        "begun": settlement.begun,
        "began_at": at(settlement.began_at - since) if settlement.begun is not None else None,
        "ended_at": at(min(0.0, settlement.ended_at - since)),
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
        case None | int() | str():
            return value
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


def as_json(value: object) -> str:
    return json.dumps(value, cls=DjangoJSONEncoder)


def as_json_text(value: object) -> str | None:
    return None if value is None else as_json(value)
