"""The hot statements for PostgreSQL 14 and later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection

from jobs.models import Job
from jobs.sql.statements import Settlement

# 'PENDING' is a literal: a generic plan with a parameter there can't use the partial index.
# MATERIALIZED: a subquery that stands bare in FROM may be run again for each row of j, and take one more each time.
CLAIM = """
WITH next AS MATERIALIZED (
    SELECT id FROM jobs_job
    WHERE queue = %(queue)s AND status = 'PENDING' AND ready_at IS NOT NULL AND kind = ANY(%(kinds)s)
    ORDER BY priority DESC, ready_at, id LIMIT %(count)s FOR UPDATE SKIP LOCKED
)
UPDATE jobs_job AS j SET
    status = 'RUNNING', attempt = j.attempt + 1, fence = j.fence + 1, worker = %(worker)s, ready_at = NULL,
    lease_until = clock_timestamp() + %(lease)s * interval '1 second', started_at = clock_timestamp(), progress = NULL,
    sequence = j.sequence + 1, version = j.version + 1
FROM next
WHERE j.id = next.id
RETURNING j.*
"""

# An attempt that would be followed by another ends the job if it was to be cancelled; the flag is read from the row
# under its lock.
SETTLE = """
UPDATE jobs_job AS j SET
    status = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE f.status END,
    result = f.result,
    error = CASE WHEN f.status = 'COMPLETED' THEN NULL ELSE COALESCE(f.error, j.error) END,
    traceback = f.traceback,
    failures = j.failures + f.failed,
    progress = COALESCE(f.progress, j.progress),
    run_at = CASE WHEN f.status = 'PENDING' AND j.cancel_requested_at IS NULL
        THEN clock_timestamp() + f.delay_seconds * interval '1 second' ELSE j.run_at END,
    finished_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    expires_at = CASE WHEN f.status <> 'PENDING' OR j.cancel_requested_at IS NOT NULL
        THEN clock_timestamp() + f.retention_seconds * interval '1 second' END,
    lease_until = NULL, worker = NULL,
    sequence = j.sequence + 1, version = GREATEST(j.version, f.version) + 1
FROM jsonb_to_recordset(%(rows)s::jsonb) AS f(
    id uuid, fence int, status text, result jsonb, error jsonb, traceback text, failed int, progress jsonb,
    version int, delay_seconds float, retention_seconds float
)
WHERE j.id = f.id AND j.status = 'RUNNING' AND j.fence = f.fence
RETURNING j.*
"""


class PostgreSQL:
    """Each statement is one round trip."""

    def now(self) -> datetime:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            moment: datetime = cursor.fetchone()[0]
            return moment

    def claim(self, *, queue: str, kinds: Sequence[str], count: int, worker: UUID, lease_seconds: float) -> list[Job]:
        params = {
            "queue": queue,
            "kinds": list(kinds),
            "count": count,
            "worker": worker,
            "lease": lease_seconds,
        }
        return list(Job.objects.raw(CLAIM, params))

    def settle(self, settlements: Sequence[Settlement]) -> list[Job]:
        rows = json.dumps([each.as_dict() for each in settlements], cls=DjangoJSONEncoder)
        return list(Job.objects.raw(SETTLE, {"rows": rows}))
