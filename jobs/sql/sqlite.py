"""The hot statements for SQLite 3.35 and later (`RETURNING`), whose one writer needs no row locks.

A SQLite database lives on one machine, so the process's clock is the database's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.utils import timezone

from jobs.models import Job
from jobs.sql.statements import Settlement

CLAIM = """
UPDATE jobs_job SET
    status = 'RUNNING', attempt = attempt + 1, fence = fence + 1, worker = %(worker)s, ready_at = NULL,
    lease_until = %(lease_until)s, started_at = %(now)s, progress = NULL,
    sequence = sequence + 1, version = version + 1
WHERE id IN (
    SELECT id FROM jobs_job
    WHERE queue = %(queue)s AND status = 'PENDING' AND ready_at IS NOT NULL
        AND kind IN (SELECT value FROM json_each(%(kinds)s))
    ORDER BY priority DESC, ready_at, id LIMIT %(count)s
)
RETURNING *
"""

SETTLE = """
UPDATE jobs_job AS j SET
    status = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE f.status END,
    result = f.result,
    error = CASE WHEN f.status = 'COMPLETED' THEN NULL ELSE COALESCE(f.error, j.error) END,
    traceback = f.traceback,
    failures = j.failures + f.failed,
    progress = COALESCE(f.progress, j.progress),
    run_at = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NULL THEN f.run_at ELSE j.run_at END,
    finished_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN %(now)s END,
    expires_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN f.expires_at END,
    lease_until = NULL, worker = NULL,
    sequence = j.sequence + 1, version = MAX(j.version, f.version) + 1
FROM (
    SELECT value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'status' AS status, value ->> 'result' AS result,
        value ->> 'error' AS error, value ->> 'traceback' AS traceback, value ->> 'failed' AS failed,
        value ->> 'progress' AS progress, value ->> 'version' AS version, value ->> 'run_at' AS run_at,
        value ->> 'expires_at' AS expires_at
    FROM json_each(%(rows)s)
) AS f
WHERE j.id = f.id AND j.status = 'RUNNING' AND j.fence = f.fence
RETURNING *
"""


class SQLite:
    """Each statement takes the write lock for itself, or runs inside the caller's transaction."""

    def now(self) -> datetime:
        return timezone.now()

    def claim(self, *, queue: str, kinds: Sequence[str], count: int, worker: UUID, lease_seconds: float) -> list[Job]:
        now = self.now()
        return list(
            Job.objects.raw(
                CLAIM,
                {
                    "queue": queue,
                    "kinds": json.dumps(list(kinds)),
                    "count": count,
                    "worker": worker.hex,
                    "now": as_text(now),
                    "lease_until": as_text(now + timedelta(seconds=lease_seconds)),
                },
            )
        )

    def settle(self, settlements: Sequence[Settlement]) -> list[Job]:
        now = self.now()
        rows = json.dumps([as_row(each, now) for each in settlements])
        return list(Job.objects.raw(SETTLE, {"rows": rows, "now": as_text(now)}))


def as_text(moment: datetime) -> str:
    """Write a time as Django's SQLite backend stores it."""
    return str(connection.ops.adapt_datetimefield_value(moment))


def as_row(settlement: Settlement, now: datetime) -> dict[str, object]:
    """Write a settlement's values as SQLite stores them: hexadecimal ids, JSON and times as text."""

    def json_text(value: object) -> str | None:
        return None if value is None else json.dumps(value, cls=DjangoJSONEncoder)

    return {
        **settlement.as_dict(),
        "id": settlement.id.hex,
        "result": json_text(settlement.result),
        "error": json_text(settlement.error),
        "progress": json_text(settlement.progress),
        "run_at": as_text(now + timedelta(seconds=settlement.delay_seconds)),
        "expires_at": as_text(now + timedelta(seconds=settlement.retention_seconds)),
    }
