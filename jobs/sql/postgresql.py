"""The hot statements for PostgreSQL 14 and later: each is one round trip.

Those with an update in a `WITH` tell of their events in one `INSERT … ORDER BY`, so that ids rise in the order of a
job's sequences.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Self
from uuid import UUID

import psycopg
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.db.backends.utils import CursorWrapper

from jobs.kinds import kind_names
from jobs.models import Job
from jobs.representation import changing_state
from jobs.sql.arrivals import columns_of, parted
from jobs.sql.rows import COLUMNS, SELECTED
from jobs.sql.statements import Exchanged, Renewal, Renewed, Settled, Settlement, Want
from jobs.sql.turns import placed


def rfc3339(moment: str) -> str:
    """Write a column's time as `representation.as_time` does."""
    return f"to_char({moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def state(of: str) -> str:
    """Take down what of a job can change, as `representation.changing_state` does."""
    return f"""jsonb_build_object('status', {of}.status, 'progress', {of}.progress, 'error', {of}.error,
        'attempt', {of}.attempt, 'version', {of}.version, 'runAt', {rfc3339(f"{of}.run_at")},
        'startedAt', {rfc3339(f"{of}.started_at")}, 'finishedAt', {rfc3339(f"{of}.finished_at")},
        'expiresAt', {rfc3339(f"{of}.expires_at")}, 'cancelRequestedAt', {rfc3339(f"{of}.cancel_requested_at")})"""


# An attempt that would be followed by another ends the job if it was to be cancelled; the flag is read from the row
# under its lock. A row that is pending still was reserved: its begin is told together with its end. The ids stand there
# twice, here and below, because a plan that joins would read all of a table that was small when it was made.
ENDED = """
ended AS (
    SELECT *, clock_timestamp() AS now FROM jsonb_to_recordset(%(ended)s::jsonb) AS f(
        place int, id uuid, fence int, status text, begun jsonb, began_ago float, ended_ago float, result jsonb,
        error jsonb, traceback text, failed int, progress jsonb, version int, delay_seconds float,
        retention_seconds float)
), settled AS (
    UPDATE jobs_job AS j SET
        status = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
            ELSE f.status END,
        result = f.result,
        error = CASE WHEN f.status = 'COMPLETED' THEN NULL ELSE COALESCE(f.error, j.error) END,
        traceback = f.traceback,
        failures = j.failures + f.failed,
        progress = CASE WHEN f.begun IS NULL THEN COALESCE(f.progress, j.progress) ELSE f.progress END,
        run_at = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NULL
            THEN f.now + f.delay_seconds * interval '1 second' ELSE j.run_at END,
        finished_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL
            THEN f.now - f.ended_ago * interval '1 second' END,
        expires_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL
            THEN f.now + f.retention_seconds * interval '1 second' END,
        started_at = CASE WHEN f.begun IS NULL THEN j.started_at ELSE f.now - f.began_ago * interval '1 second' END,
        attempt = j.attempt + (f.begun IS NOT NULL)::int,
        sequence = j.sequence + 1 + (f.begun IS NOT NULL)::int,
        version = GREATEST(j.version, f.version) + 1 + (f.begun IS NOT NULL)::int,
        ready_at = NULL, lease_until = NULL, worker = NULL, gate = 0
    FROM ended AS f
    WHERE j.id = ANY(%(ids)s) AND j.id = f.id AND j.fence = f.fence AND j.worker IS NOT NULL
        AND j.status = CASE WHEN f.begun IS NULL THEN 'RUNNING' ELSE 'PENDING' END
    RETURNING j.id, j.owner_id, j.team_id, j.kind, j.sequence, j.status, j.progress, j.error, j.attempt, j.version,
        j.run_at, j.started_at, j.finished_at, j.expires_at, j.cancel_requested_at,
        f.place, f.begun, f.now - f.ended_ago * interval '1 second' AS at
)"""

# 'PENDING' is a literal: a generic plan with a parameter there can't use the partial index. MATERIALIZED: a subquery
# that stands bare in FROM may be run again for each row of j, and take one more each time. A hand ends before the first
# job that has to be alone: of a kind that isn't quick, with one attempt only (it would run twice if the worker were
# lost before its word of it), or left in a hand by a worker that was lost. Reserving changes no column of any index.
CLAIMED = """
due AS MATERIALIZED (
    SELECT id, priority, turn, ready_at,
        kind <> ALL(%(quick_kinds)s) OR alone OR crashes > 0 OR max_attempts = 1 OR worker IS NOT NULL AS is_alone
    FROM jobs_job
    WHERE queue = %(queue)s AND status = 'PENDING' AND ready_at IS NOT NULL AND kind = ANY(%(kinds)s)
        AND (worker IS NULL OR lease_until < clock_timestamp())
        AND (start_by IS NULL OR attempt > 0 OR start_by > clock_timestamp())
        AND (finish_by IS NULL OR finish_by > clock_timestamp())
        AND NOT EXISTS (SELECT 1 FROM jobs_pausedqueue WHERE name = %(queue)s)
    ORDER BY priority DESC, turn, id LIMIT %(count)s FOR UPDATE SKIP LOCKED
), placed AS (
    SELECT id, ready_at, is_alone, row_number() OVER (ORDER BY priority DESC, turn, id) AS place FROM due
), next AS MATERIALIZED (
    SELECT id, ready_at AS since, place::int, (place = 1 AND %(begins)s)::int AS begins,
        %(begins)s AND (is_alone OR count(*) OVER () = 1) AS is_alone
    FROM placed
    WHERE (place = 1 AND %(begins)s)
        OR place < COALESCE((SELECT min(place) FROM placed WHERE is_alone), %(count)s + 1)
), claimed AS (
    UPDATE jobs_job AS j SET
        status = CASE begins WHEN 1 THEN 'RUNNING' ELSE 'PENDING' END,
        started_at = CASE begins WHEN 1 THEN clock_timestamp() ELSE j.started_at END,
        progress = CASE begins WHEN 1 THEN NULL ELSE j.progress END,
        attempt = j.attempt + begins, sequence = j.sequence + begins, version = j.version + begins,
        ready_at = CASE begins WHEN 1 THEN NULL ELSE j.ready_at END,
        fence = j.fence + 1, worker = %(worker)s, alone = is_alone,
        lease_until = clock_timestamp() + %(lease_seconds)s * interval '1 second'
    FROM next WHERE j.id = ANY(ARRAY(SELECT id FROM next)) AND j.id = next.id
    RETURNING j.*, next.place, EXTRACT(epoch FROM clock_timestamp() - next.since)::float AS waited,
        (SELECT count(*) FROM due) > (SELECT count(*) FROM next) AS is_more_held
)"""

EVENTS_OF_ENDED = f"""
    SELECT place, id, owner_id, team_id, kind, sequence - 1 AS sequence, 'job.started' AS type,
        begun || jsonb_build_object('startedAt', {rfc3339("started_at")}) AS data, started_at AS at
    FROM settled WHERE begun IS NOT NULL
    UNION ALL
    SELECT place, id, owner_id, team_id, kind, sequence,
        CASE status WHEN 'PENDING' THEN 'job.retrying' ELSE 'job.' || lower(status) END, {state("settled")}, at
    FROM settled"""  # noqa: S608 - our own columns

EVENTS_OF_CLAIMED = f"""
    SELECT {2**30} + place, id, owner_id, team_id, kind, sequence, 'job.started' AS type, {state("claimed")} AS data,
        started_at AS at
    FROM claimed WHERE status = 'RUNNING'"""  # noqa: S608 - our own columns


def written(*events: str) -> str:
    """Give the CTE that writes events, each job's in the order of their sequences."""
    return f"""
written AS (
    INSERT INTO jobs_event (job_id, owner_id, team_id, kind, sequence, type, data, at)
    SELECT id, owner_id, team_id, kind, sequence, type, data, at
    FROM ({" UNION ALL ".join(events)}) AS told(place, id, owner_id, team_id, kind, sequence, type, data, at)
    ORDER BY place, sequence
)"""  # noqa: S608 - our own columns


SELECT_SETTLED = "SELECT jsonb_agg(jsonb_build_array(id, status, sequence) ORDER BY place) AS settled FROM settled"
SETTLE = f"WITH {ENDED}, {written(EVENTS_OF_ENDED)} {SELECT_SETTLED}"
CLAIM = f"""
WITH {CLAIMED}, {written(EVENTS_OF_CLAIMED)}
SELECT {SELECTED}, waited, is_more_held FROM claimed ORDER BY place
"""  # noqa: S608 - our own columns
EXCHANGE = f"""
WITH {ENDED}, {CLAIMED}, {written(EVENTS_OF_ENDED, EVENTS_OF_CLAIMED)}
SELECT {SELECTED}, waited, is_more_held, place, CASE WHEN place > 1 THEN NULL ELSE settled END
FROM ({SELECT_SETTLED}) AS s LEFT JOIN claimed ON true ORDER BY place
"""  # noqa: S608 - our own columns

BEAT = """
UPDATE jobs_job AS j SET
    lease_until = clock_timestamp() + %(lease_seconds)s * interval '1 second',
    progress = COALESCE(f.progress, j.progress),
    version = CASE WHEN f.progress IS NULL AND f.lines = 0 THEN j.version ELSE GREATEST(j.version, f.version) + 1 END,
    sequence = j.sequence + f.lines, log_lines = j.log_lines + f.lines
FROM jsonb_to_recordset(%(renewals)s::jsonb) AS f(id uuid, fence int, progress jsonb, version int, lines int)
WHERE j.id = ANY(%(ids)s) AND j.id = f.id AND j.fence = f.fence AND j.status = 'RUNNING'
RETURNING j.id, j.version, j.sequence, j.cancel_requested_at IS NOT NULL
"""

IS_KNOWN = "j.kind = ANY(%(kinds)s)"

# What all jobs have in common is told once, in the record that the others complete; of what an event tells, new jobs
# differ in `runAt` alone.
ACCEPT = f"""
WITH arriving AS MATERIALIZED (
    SELECT * FROM jsonb_populate_recordset(
        jsonb_populate_record(NULL::jobs_job, %(base)s::jsonb), %(jobs)s::jsonb)
), coming AS (
    SELECT id, owner_id, queue, priority, kind, gate FROM arriving
), {placed("GREATEST", IS_KNOWN)}, accepted AS (
    INSERT INTO jobs_job ({", ".join(COLUMNS)})
    SELECT {", ".join("placed.turn" if each == "turn" else f"a.{each}" for each in COLUMNS)}
    FROM arriving AS a JOIN placed ON placed.id = a.id ORDER BY a.id
)
INSERT INTO jobs_event (job_id, owner_id, team_id, kind, sequence, type, data, at)
SELECT id, owner_id, team_id, kind, sequence, 'job.accepted',
    CASE WHEN run_at IS NULL THEN %(state)s::jsonb
        ELSE %(state)s::jsonb || jsonb_build_object('runAt', {rfc3339("run_at")}) END, created_at
FROM arriving ORDER BY id
"""  # noqa: S608 - our own columns

MAKE_DUE = f"""
WITH coming AS MATERIALIZED (
    SELECT id, owner_id, queue, priority, kind, COALESCE((%(gates)s::jsonb ->> kind)::int, 0) AS gate
    FROM jobs_job WHERE id = ANY(%(ids)s)
), {placed("GREATEST", IS_KNOWN)}
UPDATE jobs_job AS j SET
    turn = placed.turn, gate = coming.gate,
    ready_at = CASE WHEN coming.gate = 0 THEN clock_timestamp() END
FROM coming JOIN placed USING (id)
WHERE j.id = ANY(%(ids)s) AND j.id = coming.id AND j.status = 'PENDING'
"""  # noqa: S608 - no value of anybody's


class PostgreSQL:
    """Each method is one statement, which is one round trip."""

    def now(self) -> datetime:
        with executed("SELECT clock_timestamp()") as cursor:
            moment: datetime = cursor.fetchone()[0]
            return moment

    def accept(self, alike: Sequence[Sequence[Job]], varying: Collection[str]) -> None:
        jobs = list(chain.from_iterable(alike))
        arrivals = parted(columns_of(jobs, varying), exact)
        params = {
            "base": as_json(arrivals.common),
            "jobs": as_json([dict(zip(arrivals.names, row, strict=True)) for row in arrivals.rows]),
            "state": as_json({**changing_state(jobs[0]), "runAt": None}),
            "kinds": kind_names(),
        }
        executed(ACCEPT, params).close()

    def written(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        return settlements

    def exchange(self, settlements: Sequence[Settlement], want: Want | None) -> Exchanged:
        now = time.monotonic()
        ending = [settlement_row(each, place, now) for place, each in enumerate(settlements)]
        ended = {"ended": as_json(ending), "ids": [each.id for each in settlements]}
        match settlements, want:
            case [], None:
                return Exchanged()
            case [], Want():
                rows = fetched(CLAIM, arguments(want))
                return Exchanged(claimed=rows, waits=waits_of(rows), is_more_held=bool(rows and rows[0][-1]))
            case _, None:
                ((settled,),) = fetched(SETTLE, ended)
                return Exchanged(settled=settled_of(settled))
            case _, Want():
                rows = fetched(EXCHANGE, {**ended, **arguments(want)})
                claimed = rows if rows[0][-2] else []  # one row without a job tells of the ends alone
                *_, is_more_held, _, settled = rows[0]
                return Exchanged(
                    settled=settled_of(settled),
                    claimed=claimed,
                    waits=waits_of(claimed),
                    is_more_held=bool(is_more_held),
                )
        raise AssertionError  # pragma: no cover - the cases are all there are

    def beat(self, renewals: Sequence[Renewal], lease_seconds: float) -> list[Renewed]:
        params = {
            "renewals": as_json([vars(each) for each in renewals]),
            "ids": [each.id for each in renewals],
            "lease_seconds": lease_seconds,
        }
        return [
            Renewed(id=pk, version=version, sequence=sequence, is_cancelled=is_cancelled)
            for pk, version, sequence, is_cancelled in fetched(BEAT, params)
        ]

    def make_due(self, ids: Sequence[UUID], gates: Mapping[str, int]) -> None:
        executed(MAKE_DUE, {"ids": list(ids), "gates": as_json(gates), "kinds": kind_names()}).close()

    def lock_kind(self, kind: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('kabar kind'), hashtext(%s))", [kind])


# To plan a statement takes longer than to run it for one job, so plans are kept (docs/decisions/plans.md). One that was
# made while a table was small would read all of it later; the one that uses the indexes is right for all sizes.
KEEP_PLANS = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true)
"""


class HotCursor(psycopg.Cursor[Any]):
    """Sends a statement prepared, in one round trip with the BEGIN before it and the rule for its plan.

    Django's own cursor puts the values into the text, so that each is another statement to the server.
    """

    def execute(self, query: Any, params: Any = None, **_: Any) -> Self:
        with self.connection.pipeline():
            psycopg.Cursor(self.connection).execute(KEEP_PLANS, prepare=True)
            return super().execute(query, params, prepare=True)


def executed(statement: str, params: dict[str, Any] | None = None) -> CursorWrapper:
    """Run a statement, and give the cursor that has its rows."""
    connection.ensure_connection()
    make = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    cursor: CursorWrapper = make(HotCursor(connection.connection))  # type: ignore[arg-type]  # it asks for its own kind
    cursor.execute(statement, params)
    return cursor


def fetched(statement: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
    with executed(statement, params) as cursor:
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def settlement_row(settlement: Settlement, place: int, now: float) -> dict[str, Any]:
    """Write a settlement as `ENDED` reads it: moments in seconds before now, for the clock is the server's."""
    return {
        **vars(settlement),
        "job": None,
        "id": str(settlement.id),
        "fence": settlement.fence,
        "place": place,
        "began_ago": now - settlement.began_at,
        "ended_ago": max(0.0, now - settlement.ended_at),
    }


def arguments(want: Want) -> dict[str, Any]:
    return {**vars(want), "kinds": list(want.kinds), "quick_kinds": list(want.quick_kinds)}


def settled_of(rows: str | None) -> list[Settled]:
    """Read what `SELECT_SETTLED` gave; Django has psycopg return JSON as text."""
    return [Settled(id=UUID(pk), status=status, sequence=sequence) for pk, status, sequence in json.loads(rows or "[]")]


def waits_of(claimed: Sequence[Sequence[Any]]) -> list[float]:
    """Read how long each had been in line: what stands behind the job's own columns."""
    return [row[len(COLUMNS)] for row in claimed]


def exact(value: Any) -> Any:
    """Write ids and times as JSON has them; the encoder that Django has is slow, and leaves microseconds out."""
    match value:
        case UUID():
            return value.hex
        case datetime():
            return value.isoformat()
        case _:
            return value


def as_json(value: object) -> str:
    return json.dumps(value, cls=DjangoJSONEncoder)
