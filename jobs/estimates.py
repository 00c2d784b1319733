"""What can be guessed of a job before its end: its place in line, and when it will be done.

Guesses are for whoever looks at one job. They ask the database, which the representation never does; they change
without an event, so they stand outside the ETag, and events and lists go without them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from jobs.models import Gate, Job, Status
from jobs.representation import as_time, finish_at_pace

LAST_PLACE = 1000
"""Nobody is told a later place in line: so many rows are counted at most, however long the line is."""
RUNS = 50
"""A kind's usual run time is the median of so many."""
MOST_LOOKED_AT = 500
"""Among so many of a kind's jobs they are looked for."""
KEPT_SECONDS = 60.0

# Free jobs in line, as a claim finds them: two ranges of its index, because no single one holds all that stands before.
# They are read in its order, or PostgreSQL would collect a whole long line first. No ORM: on each submission it would
# take longer to write this than the database to answer.
BEFORE = """SELECT count(*) FROM (
    SELECT j.id FROM jobs_job AS j WHERE j.queue = its.queue AND j.status = 'PENDING' AND j.ready_at IS NOT NULL
        AND (j.worker IS NULL OR j.lease_until < %(now)s) AND {bound}
    ORDER BY j.priority DESC, j.turn, j.id LIMIT %(most)s
) AS before"""
AHEAD = f"""
SELECT ({BEFORE.format(bound="j.priority > its.priority")})
    + ({BEFORE.format(bound="j.priority = its.priority AND (j.turn, j.id) < (its.turn, its.id)")})
FROM jobs_job AS its WHERE its.id = %(id)s AND its.status = 'PENDING' AND its.ready_at IS NOT NULL
"""  # noqa: S608 - our own columns

_usual: dict[str, tuple[float, timedelta | None]] = {}
"""By kind: until when, on the monotonic clock, its usual run time is kept, and what it is."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What is guessed of a job; None where nothing is known."""

    place: int | None = None
    """In line, from 1, while it is pending."""
    finish_at: datetime | None = None
    """While it runs."""


UNKNOWN = Estimates()


def estimates_of(job: Job) -> Estimates:
    """Guess: one query for a job in line, one a minute and kind for one that runs, none for others."""
    finish_at = finish_at_pace(job.status, job.started_at, job.progress)
    return Estimates(place=place_in_line(job), finish_at=finish_at or usual_finish(job))


def with_estimates(job: Job, shown: dict[str, Any]) -> dict[str, Any]:
    """Add what can be guessed of a job to the single Job.

    Args:
        job: the row.
        shown: how `representation` shows it; of a job as it stood earlier nothing is guessed.
    """
    if shown["version"] != job.version:
        return shown
    guessed = estimates_of(job)
    return shown | {"queuePosition": guessed.place, "estimatedFinishAt": as_time(guessed.finish_at)}


def place_in_line(job: Job) -> int | None:
    """Count how many jobs will be claimed before a pending one, and itself. Index: job_claim.

    Args:
        job: the row; one that was just accepted needn't know its turn, nor that it was let through its kind's gates.

    Returns:
        From 1; None for a job that isn't in line (scheduled, at a gate of its kind, begun), and beyond `LAST_PLACE`.
    """
    if job.status != Status.PENDING or (job.ready_at is None and job.gate == Gate.NONE):
        return None
    values = {
        "id": Job._meta.pk.get_db_prep_value(job.pk, connection),
        "now": connection.ops.adapt_datetimefield_value(timezone.now()),
        "most": LAST_PLACE,
    }
    with connection.cursor() as cursor:
        cursor.execute(AHEAD, values)
        found = cursor.fetchone()
    return found[0] + 1 if found and found[0] < LAST_PLACE else None


def usual_finish(job: Job) -> datetime | None:
    """Guess the end of a running job from how long its kind usually takes.

    Returns:
        None where it doesn't run, where its kind's latest jobs tell nothing, or where it has taken longer already.
    """
    if job.status != Status.RUNNING or job.started_at is None:
        return None
    usual = usual_run_time(job.kind, job.pk)
    if usual is None or job.started_at + usual <= timezone.now():
        return None
    return job.started_at + usual


def usual_run_time(kind: str, before: UUID) -> timedelta | None:
    """Give the median run time of a kind's latest completed jobs, kept for a while. Index: job_by_kind.

    Args:
        kind: its name.
        before: a running job of it, from which on earlier ones are looked at: what was submitted after it mostly waits.

    Returns:
        None where none of the latest was completed.
    """
    until, usual = _usual.get(kind, (0.0, None))
    if time.monotonic() < until:
        return usual
    latest = Job.objects.filter(kind=kind, pk__lt=before).order_by("-pk")[:MOST_LOOKED_AT]
    seconds = [
        (finished_at - started_at).total_seconds()
        for status, started_at, finished_at in latest.values_list("status", "started_at", "finished_at")
        if status == Status.COMPLETED and started_at and finished_at
    ]
    usual = timedelta(seconds=median(seconds[:RUNS])) if seconds else None
    _usual[kind] = time.monotonic() + KEPT_SECONDS, usual
    return usual
