"""What a status poll asks the database, in one statement: is the token good, may its user see the job, how is it.

The ORM would need four, and longer to write them than the database to answer. Two statements know the rule of
`visibility` in SQL; tests/jobs/test_polls.py holds them against it. Indexes: the primary keys of tokens, users and
jobs, and the one of users' groups.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakSet

import psycopg
from django.contrib.auth import get_user_model
from django.db import connection

from jobs.credentials import USE_NOTED_EVERY
from jobs.models import Artifact, Job, Scope, Status, Token
from jobs.sql import postgresql
from jobs.sql.rows import COLUMNS, Reader, jobs_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User

Pair = tuple[str, UUID]
"""The digest of a token, and a job."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How a job stands that a token's user may see."""

    version: int
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class Look:
    """A token with its user, whatever they are good for, and the job, if that user may see it."""

    token: Token
    job: Job | None


TOKENS: Reader[Token] = Reader(Token)
ARTIFACTS: Reader[Artifact] = Reader(Artifact)
_JOB = ", ".join("'' AS traceback" if each == "traceback" else f"j.{each}" for each in COLUMNS)  # operators' alone

MAY_SEE = """(j.owner_id = u.id OR u.is_staff OR EXISTS (
    SELECT 1 FROM auth_user_groups AS g WHERE g.user_id = u.id AND g.group_id = j.team_id))"""

SIGHTS = f"""
SELECT a.place, j.version, j.status, t.scopes
FROM {{asked}}
CROSS JOIN jobs_token AS t CROSS JOIN auth_user AS u CROSS JOIN jobs_job AS j
WHERE t.digest = a.digest AND u.id = t.user_id AND j.id = a.job
    AND u.is_active AND (t.expiry IS NULL OR t.expiry > %(now)s) AND t.job_id IS NULL AND t.session_id IS NULL
    AND t.last_used_at >= %(noted_since)s AND {MAY_SEE}
"""  # noqa: S608 - our own columns
ASKED = {
    "postgresql": "unnest(%(digests)s::text[], %(jobs)s::uuid[]) WITH ORDINALITY AS a(digest, job, place)",
    # CROSS JOIN keeps SQLite to this order.
    "sqlite": "(SELECT key + 1 AS place, value ->> 0 AS digest, value ->> 1 AS job FROM json_each(%(asked)s)) AS a",
}

# As `postgresql.KEEP_PLANS`, but for the session. A plan that was made while a table was small would hash all of it for
# a join, or begin with what is to be looked up.
LOOKUPS_ALONE = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('join_collapse_limit', '1', false),
    set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),
    set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)
"""
AMONG = {"postgresql": "= ANY(%(ids)s::uuid[])", "sqlite": "IN (SELECT value FROM json_each(%(ids)s))"}


def sights(pairs: Collection[Pair], now: datetime) -> dict[Pair, Sight]:
    """Look at jobs with tokens: how each job stands that is surely to be shown.

    Args:
        pairs: who asks for what.
        now: the time by which tokens expire.

    Returns:
        Nothing for a pair whose token isn't good, has its use to be noted, or is limited to something else than to
        read; and nothing for one whose job isn't there, or isn't the user's to see. What is to be said then is the
        view's to say.
    """
    asked = list(pairs)
    params: dict[str, Any] = {"now": _time(now), "noted_since": _time(now - USE_NOTED_EVERY)}
    if connection.vendor == "postgresql":
        params |= {"digests": [digest for digest, _ in asked], "jobs": [job_id for _, job_id in asked]}
    else:
        params["asked"] = json.dumps([(digest, job_id.hex) for digest, job_id in asked])
    rows = _fetched(SIGHTS.format(asked=ASKED[connection.vendor]), params)
    return {
        asked[place - 1]: Sight(version=version, is_final=Status(status).is_final)
        for place, version, status, scopes in rows
        if scopes == "[]" or Scope.READ in json.loads(scopes)
    }


def look(digest: str, job_id: UUID) -> Look | None:
    """Read a token with its user, and a job, if that user may see it; None without such a token."""
    users = _users()
    token_columns = ", ".join(f"t.{each}" for each in TOKENS.columns)
    user_columns = ", ".join(f"u.{each}" for each in users.columns)
    statement = f"""
        SELECT {token_columns}, {user_columns}, {_JOB}
        FROM jobs_token AS t JOIN auth_user AS u ON u.id = t.user_id
        LEFT JOIN jobs_job AS j ON j.id = %(job)s AND {MAY_SEE}
        WHERE t.digest = %(digest)s"""  # noqa: S608 - our own columns
    rows = _fetched(statement, {"job": Job._meta.pk.get_db_prep_value(job_id, connection), "digest": digest})
    if not rows:
        return None
    (row,) = rows
    of_token, of_user = len(TOKENS.columns), len(TOKENS.columns) + len(users.columns)
    token = TOKENS.of(row[:of_token])
    token.user = users.of(row[of_token:of_user])
    if row[of_user] is None:
        return Look(token=token, job=None)
    (job,) = jobs_of([row[of_user:]])
    # Where the ORM puts what it has prefetched, so that `finishing_artifacts` asks no more.
    job._prefetched_objects_cache = {"artifacts": files_of([job])[job.id]}  # type: ignore[attr-defined]
    return Look(token=token, job=job)


def jobs_by_id(ids: Collection[UUID]) -> dict[UUID, Job]:
    """Read jobs."""
    statement = f"SELECT {_JOB} FROM jobs_job AS j WHERE j.id {AMONG[connection.vendor]}"  # noqa: S608 - our own columns
    return {job.id: job for job in jobs_of(_fetched(statement, _among(ids)))}


def files_of(jobs: Collection[Job]) -> dict[UUID, list[Artifact]]:
    """Read the files of the attempts that completed jobs, in the order they were attached: as `finishing_artifacts`.

    It asks only where a job is completed.
    """
    completed = {job.id: job for job in jobs if job.status == Status.COMPLETED}
    files: dict[UUID, list[Artifact]] = {job.id: [] for job in jobs}
    if completed:
        columns = ", ".join(f"f.{each}" for each in ARTIFACTS.columns)
        statement = f"""
            SELECT {columns} FROM jobs_artifact AS f WHERE f.job_id {AMONG[connection.vendor]} ORDER BY f.id
        """  # noqa: S608 - our own columns
        for file in map(ARTIFACTS.of, _fetched(statement, _among(completed))):
            if file.fence == completed[file.job_id].fence:
                files[file.job_id].append(file)
    return files


@cache
def _users() -> Reader[User]:
    return Reader(get_user_model())


def _time(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)


def _among(ids: Collection[UUID]) -> dict[str, Any]:
    if connection.vendor == "postgresql":
        return {"ids": list(ids)}
    return {"ids": json.dumps([each.hex for each in ids])}


def keep_plans() -> None:
    """Have this thread's connection keep all plans: lookups by key, table after table as the statement names them.

    Call it before each look in a thread that does nothing else; it asks the database only where the connection is new.
    """
    if connection.vendor != "postgresql":
        return
    connection.ensure_connection()
    if connection.connection not in _that_keep_plans:
        connection.connection.execute(LOOKUPS_ALONE)
        _that_keep_plans.add(connection.connection)


_that_keep_plans: WeakSet[Any] = WeakSet()


def _fetched(statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    if connection.vendor == "postgresql":
        if connection.connection in _that_keep_plans:
            with psycopg.Cursor[tuple[Any, ...]](connection.connection) as hot:
                return hot.execute(statement, params, prepare=True).fetchall()
        return postgresql.fetched(statement, dict(params))
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
