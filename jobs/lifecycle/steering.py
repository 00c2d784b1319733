"""Users steer: cancel and reopen."""

from __future__ import annotations

from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from jobs import wakeup
from jobs.failures import UniqueKeyTaken, WrongState
from jobs.lifecycle.promising import after
from jobs.lifecycle.recovering import make_due
from jobs.lifecycle.transitions import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    TRANSITIONS,
    after_moves,
    ending,
    move,
    ring_on_commit,
)
from jobs.models import Job, Status
from jobs.sql import statements


def cancel(job_id: UUID) -> Job:
    """End a pending job at once, or ask for the end of a running one, whose worker sees it within 5 s.

    Returns:
        The job as it is now: CANCELLED, or RUNNING with `cancel_requested_at`.

    Raises:
        Job.DoesNotExist: there is none.
        WrongState: it is completed or failed.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        if job.status == PENDING:
            return _cancel_pending(job)
        if job.status == RUNNING and job.cancel_requested_at is None:
            Job.objects.filter(pk=job_id, status=RUNNING).update(
                cancel_requested_at=statements().now(), version=F("version") + 1
            )
            transaction.on_commit(lambda: wakeup.tell_changed([str(job_id)]))
            return Job.objects.get(pk=job_id)
        if job.status in (COMPLETED, FAILED):
            raise WrongState(f"The job is {job.status} already; only an unfinished one can be cancelled.", job)
        return job


def withdraw(job_id: UUID) -> None:
    """Cancel a job if it is pending; one that runs or has ended by now is left alone."""
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id, status=PENDING).first()
        if job:
            _cancel_pending(job)


def _cancel_pending(job: Job) -> Job:
    now = statements().now()
    cancelled = move("cancel", job, CANCELLED, now, ending(job, now) | {"cancel_requested_at": now})
    after_moves([cancelled])
    return cancelled


def reopen(job_id: UUID, by: str) -> Job:
    """Run a failed or cancelled job again, in the same log, with all its attempts before it.

    Args:
        job_id: whose.
        by: the name of the user who asked; stands in the event.

    Raises:
        Job.DoesNotExist: there is none.
        WrongState: it is neither failed nor cancelled.
        UniqueKeyTaken: another job holds its unique key by now.
    """
    try:
        with transaction.atomic():
            return _reopen(Job.objects.select_for_update().get(pk=job_id), by)
    except IntegrityError:
        job = Job.objects.get(pk=job_id)
        standing = Job.objects.filter(
            owner_id=job.owner_id, kind=job.kind, unique_key=job.unique_key, status__in=[PENDING, RUNNING]
        ).first()
        if job.unique_key is None or standing is None:
            raise
        raise UniqueKeyTaken(standing) from None


def _reopen(job: Job, by: str) -> Job:
    if Status(job.status) not in TRANSITIONS["reopen"][0]:
        raise WrongState(f"The job is {job.status}; only a failed or cancelled one can be retried.", job)
    now = statements().now()
    changes = {
        "attempt": 0,
        "failures": 0,
        "crashes": 0,
        "alone": False,
        "error": None,
        "traceback": "",
        "result": None,
        "finished_at": None,
        "expires_at": None,
        "cancel_requested_at": None,
        "run_at": None,
        "start_by": after(now, job.start_within_seconds),
        "finish_by": after(now, job.deadline_seconds),
    }
    reopened = move("reopen", job, PENDING, now, changes, extra={"by": by})
    make_due([reopened])
    reopened.refresh_from_db(fields=["ready_at", "turn", "gate"])
    ring_on_commit([reopened])
    return reopened
