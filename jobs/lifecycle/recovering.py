"""Sweepers, and a lost worker's successor, recover: rescue, promote, expire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from jobs import limits, metrics
from jobs.lifecycle.transitions import (
    CANCELLED,
    FAILED,
    MOST_CRASHES,
    PENDING,
    RUNNING,
    after_moves,
    backoff_seconds,
    ending,
    move,
)
from jobs.lifecycle.working import begin_reserved, give_back, put_back
from jobs.models import Job
from jobs.sql import statements

MOST_UNWRITTEN_VERSIONS = 100
"""Progress is pushed more often than it is written: a lost worker's last pushes may be this far ahead of the row."""


NEAR_THE_HEAD = 1000
"""So many of a line are looked at for what a dead worker had reserved."""


# --- Rescue -----------------------------------------------------------------------------------------------------------


def rescue(limit: int) -> int:
    """Take running jobs back whose lease ran out: their worker is lost.

    Which of a hand's jobs ran can't be known here. A job that had no company in its hand counts the loss as its crash;
    any other is claimed alone from now on. What was only reserved is free again by itself. All is checked on the locked
    row, because a job may complete between the look and the grasp (riverqueue/river#1302). Index: job_running.

    Returns:
        How many were taken back.
    """
    with transaction.atomic():
        now = statements().now()
        rows = Job.objects.select_for_update(skip_locked=True)
        jobs = list(rows.filter(status=RUNNING, lease_until__lt=now).order_by("lease_until")[:limit])
        after_moves([_count_crash(job, now) if job.alone else put_back(job, "rescue", now, alone=True) for job in jobs])
    return len(jobs)


def rescue_worker(worker: UUID, running: UUID | None, queues: Sequence[str]) -> int:
    """Take everything back from a worker that is known to be dead, without waiting for its leases.

    What it had only reserved stands near the head of its line. Should so many have come before it since that it isn't
    found there, it is free again once its lease is over. Indexes: job_running, job_claim.

    Args:
        worker: the id of its process.
        running: the job whose handler ran when it died; it counts a crash.
        queues: those that it heard.

    Returns:
        How many jobs were taken back.
    """

    def is_guilty(job: Job) -> bool:
        # One that has a single attempt may have had it, if its worker died between the handler and its word of it.
        return job.pk == running or (job.status == RUNNING and job.max_attempts == 1)

    with transaction.atomic():
        now = statements().now()
        reserved = [pk for queue in queues for pk in _reserved_by(worker, queue)]
        rows = Job.objects.select_for_update(skip_locked=True).filter(worker=worker)
        running_ones, pending_ones = rows.filter(status=RUNNING), rows.filter(status=PENDING, pk__in=reserved)
        jobs = [*running_ones.order_by("pk"), *pending_ones.order_by("pk")]
        moved = []
        for job in jobs:
            if is_guilty(job):
                moved.append(_count_crash(job if job.status == RUNNING else begin_reserved(job, now), now))
            elif job.status == RUNNING:
                moved.append(put_back(job, "rescue", now))
        after_moves(moved)
        give_back([job for job in jobs if job.status == PENDING and not is_guilty(job)])
    return len(jobs)


def _reserved_by(worker: UUID, queue: str) -> list[UUID]:
    line = Job.objects.filter(queue=queue, status=PENDING, ready_at__isnull=False)
    head = line.order_by(F("priority").desc(), "turn", "id").values_list("pk", "worker")[:NEAR_THE_HEAD]
    return [pk for pk, holder in head if holder == worker]


def disown(worker: UUID) -> int:
    """Put back what a worker runs without knowing: a claim of its own that seemed to fail. Nothing of it has begun.

    Returns:
        How many jobs were put back.
    """
    with transaction.atomic():
        jobs = list(Job.objects.select_for_update().filter(worker=worker, status=RUNNING))
        now = statements().now()
        after_moves([put_back(job, "rescue", now) for job in jobs])
    return len(jobs)


def _count_crash(job: Job, now: datetime) -> Job:
    metrics.count_crash(job.kind)
    crashes = job.crashes + 1
    changes: dict[str, Any] = {"crashes": crashes, "worker": None, "lease_until": None, "gate": 0, "alone": True}
    if job.cancel_requested_at:
        status = CANCELLED
    else:
        message = "The worker that ran this job was lost."
        changes["error"] = {"code": "worker_lost", "message": message, "attempt": job.attempt}
        is_over = bool(job.finish_by and job.finish_by <= now)
        may_run_again = job.failures + crashes < job.max_attempts and crashes < MOST_CRASHES and not is_over
        status = PENDING if may_run_again else FAILED
    if status == PENDING:
        changes["run_at"] = now + timedelta(seconds=backoff_seconds(crashes) / 2)
    else:
        changes |= ending(job, now)
    return move("rescue", job, status, now, changes, version_step=MOST_UNWRITTEN_VERSIONS)


# --- Promote and expire -----------------------------------------------------------------------------------------------


def promote(limit: int) -> Counter[str]:
    """Put scheduled and retried jobs in line whose time has come. Index: job_promote.

    Returns:
        How many became due, by queue.
    """
    with transaction.atomic():
        now = statements().now()
        due = Job.objects.select_for_update(skip_locked=True).filter(
            status=PENDING, ready_at__isnull=True, run_at__lte=now, gate=0
        )
        jobs = list(due.only("id", "queue", "kind", "owner_id").order_by("run_at")[:limit])
        make_due(jobs)
    return Counter(job.queue for job in jobs)


def make_due(jobs: list[Job]) -> None:
    """Put locked pending jobs in line, or at the gate of their kind."""
    if jobs:
        statements().make_due([job.pk for job in jobs], limits.gates())
        limits.let_in(jobs)


def expire(limit: int) -> int:
    """Fail pending jobs that may not begin any more. Indexes: job_start_by, job_finish_by.

    Those in a worker's hand have begun or will at once.

    Returns:
        How many ended.
    """
    with transaction.atomic():
        now = statements().now()
        pending = Job.objects.select_for_update(skip_locked=True).filter(is_free(now), status=PENDING)
        late = list(pending.filter(start_by__lte=now, attempt=0).order_by("start_by")[:limit])
        over = list(
            pending.filter(finish_by__lte=now).exclude(pk__in=[job.pk for job in late]).order_by("finish_by")[:limit]
        )
        moved = [
            _fail_unbegun(job, now, "expired", f"It did not begin within {job.start_within_seconds} s.") for job in late
        ]
        moved += [
            _fail_unbegun(job, now, "deadline_exceeded", f"It did not end within {job.deadline_seconds} s.")
            for job in over
        ]
        after_moves(moved)
    return len(late) + len(over)


def is_free(now: datetime) -> Q:
    """Find jobs that are in no hand, or in one whose lease is over."""
    return Q(worker__isnull=True) | Q(lease_until__lt=now)


def _fail_unbegun(job: Job, now: datetime, code: str, message: str) -> Job:
    error = {"code": code, "message": message, "attempt": job.attempt}
    return move("expire", job, FAILED, now, ending(job, now) | {"error": error})
