"""The life of a job: the only writer of `status`. `docs/lifecycle.md` has the drawing.

Every transition is one transaction: a guarded update, its event, and what subscribers add to it. A guard that matches
nothing means that somebody else moved the job: the caller is told, and writes no more. What a worker writes carries the
fence of its claim, so a worker that was thought dead and comes back writes nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from jobs import doorbell, log, wakeup
from jobs.failures import AlreadySubmitted, KeyReused, UniqueKeyTaken, UnknownKind, WrongState
from jobs.kinds import Kind, all_kinds, get_kind
from jobs.models import EventType, IdempotencyKey, Job, JobUpload, Status, Upload, new_id
from jobs.sql import statements
from jobs.sql.statements import Settlement
from jobs.subscribers import subscribers

PENDING, RUNNING = Status.PENDING, Status.RUNNING
COMPLETED, FAILED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.CANCELLED

# From where to where each transition may lead. `_record` refuses any other.
TRANSITIONS: Mapping[str, tuple[frozenset[Status], frozenset[Status]]] = {
    "accept": (frozenset(), frozenset({PENDING})),
    "claim": (frozenset({PENDING}), frozenset({RUNNING})),
    "beat": (frozenset({RUNNING}), frozenset({RUNNING})),
    "finish": (frozenset({RUNNING}), frozenset({COMPLETED, FAILED, CANCELLED})),
    "retry": (frozenset({RUNNING}), frozenset({PENDING, CANCELLED})),
    "rescue": (frozenset({RUNNING}), frozenset({PENDING, FAILED, CANCELLED})),
    "release": (frozenset({RUNNING}), frozenset({PENDING, CANCELLED})),
    "cancel": (frozenset({PENDING}), frozenset({CANCELLED})),
    "expire": (frozenset({PENDING}), frozenset({FAILED})),
    "reopen": (frozenset({FAILED, CANCELLED}), frozenset({PENDING})),
}

EVENT_OF_END = {
    PENDING: EventType.RETRYING,
    COMPLETED: EventType.COMPLETED,
    FAILED: EventType.FAILED,
    CANCELLED: EventType.CANCELLED,
}

Move = tuple[Job, EventType, datetime]
"""A job as it stands after its update, the event that tells of it, and when it happened."""

LEASE_SECONDS = 30
IDEMPOTENCY_HOURS = 24
MOST_UNWRITTEN_VERSIONS = 100
"""Progress is pushed more often than it is written: a lost worker's last pushes may be this far ahead of the row."""
MOST_CRASHES = 3
"""A job whose worker was lost this often is not given to another."""
LONGEST_BACKOFF_SECONDS = 600
MOST_CONFLICTS = 3
"""How often what stands in a submission's way may be gone when it is looked for."""


# --- Accept -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A checked request for one job; times are seconds, None means what the kind says or no limit."""

    kind: Kind
    owner_id: int
    params: dict[str, Any] = field(default_factory=dict)
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    """Files by the name of their parameter."""
    team_id: int | None = None
    run_at: datetime | None = None
    priority: int = 0
    max_attempts: int | None = None
    timeout_seconds: int | None = None
    start_within_seconds: int | None = None
    deadline_seconds: int | None = None
    unique_key: str | None = None
    callback_url: str = ""
    callback_events: Sequence[str] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """The key that a client gave with its submission, and what the submission said."""

    key: str
    fingerprint: str
    """SHA-256, hexadecimal."""


def accept(submissions: Sequence[Submission], idempotency: Idempotency | None = None) -> list[Job]:
    """Promise jobs: once this returns, they will run though every process dies.

    Raises:
        AlreadySubmitted: the idempotency key came before with the same submission; carries the first job.
        KeyReused: the idempotency key came before with another submission.
        UniqueKeyTaken: a job with this unique key isn't final yet; carries it.
    """
    for _ in range(MOST_CONFLICTS):
        try:
            return _promise(submissions, idempotency)
        except IntegrityError:
            _explain_conflict(submissions[0], idempotency)
    return _promise(submissions, idempotency)  # what stood in the way has ended since


def _promise(submissions: Sequence[Submission], idempotency: Idempotency | None) -> list[Job]:
    with transaction.atomic():
        now = statements().now()
        jobs = Job.objects.bulk_create(_new_job(each, now) for each in submissions)
        JobUpload.objects.bulk_create(
            JobUpload(job=job, upload=upload, param=param)
            for job, each in zip(jobs, submissions, strict=True)
            for param, upload in each.uploads.items()
        )
        if idempotency:
            _remember(idempotency, jobs[0], now)
        _record("accept", ((job, EventType.ACCEPTED, now) for job in jobs))
        _ring_on_commit(jobs)
    return jobs


def _new_job(submission: Submission, now: datetime) -> Job:
    is_due = submission.run_at is None or submission.run_at <= now
    return Job(
        id=new_id(),
        owner_id=submission.owner_id,
        team_id=submission.team_id,
        kind=submission.kind.name,
        queue=submission.kind.queue,
        params=submission.params,
        priority=submission.priority,
        max_attempts=submission.max_attempts or submission.kind.max_attempts,
        timeout_seconds=submission.timeout_seconds or submission.kind.timeout_seconds,
        start_within_seconds=submission.start_within_seconds,
        deadline_seconds=submission.deadline_seconds,
        unique_key=submission.unique_key,
        callback_url=submission.callback_url,
        callback_events=list(submission.callback_events),
        tags=list(submission.tags),
        metadata=dict(submission.metadata),
        created_at=now,
        run_at=submission.run_at,
        ready_at=now if is_due else None,
        start_by=_after(now, submission.start_within_seconds),
        finish_by=_after(now, submission.deadline_seconds),
    )


def _remember(idempotency: Idempotency, job: Job, now: datetime) -> None:
    """Bind the key to the job; a key that is past its day may be used again."""
    old = now - timedelta(hours=IDEMPOTENCY_HOURS)
    IdempotencyKey.objects.filter(owner_id=job.owner_id, key=idempotency.key, created_at__lt=old).delete()
    IdempotencyKey.objects.create(
        owner_id=job.owner_id,
        key=idempotency.key,
        fingerprint=idempotency.fingerprint,
        job=job,
        created_at=now,
    )


def _explain_conflict(submission: Submission, idempotency: Idempotency | None) -> None:
    """Say which promise stood already, read after the losing transaction is over."""
    if idempotency:
        known = (
            IdempotencyKey.objects.filter(owner_id=submission.owner_id, key=idempotency.key)
            .select_related("job")
            .first()
        )
        if known and known.fingerprint == idempotency.fingerprint:
            raise AlreadySubmitted(known.job)
        if known:
            raise KeyReused("This Idempotency-Key came before with another submission.")
    if standing := standing_job(submission):
        raise UniqueKeyTaken(standing)


def standing_job(submission: Submission) -> Job | None:
    """Find the unfinished job that holds this submission's unique key. Index: job_unique_key."""
    if submission.unique_key is None:
        return None
    return Job.objects.filter(
        owner_id=submission.owner_id,
        kind=submission.kind.name,
        unique_key=submission.unique_key,
        status__in=[PENDING, RUNNING],
    ).first()


# --- Claim and beat ---------------------------------------------------------------------------------------------------


def claim(queue: str, count: int, worker: UUID) -> list[Job]:
    """Give due jobs of a queue to a worker, most urgent first, and begin an attempt of each.

    Args:
        queue: a Celery queue's name.
        count: most jobs.
        worker: the id of the worker's process.
    """
    kinds = [each.name for each in all_kinds()]
    with transaction.atomic():
        jobs = statements().claim(queue=queue, kinds=kinds, count=count, worker=worker, lease_seconds=LEASE_SECONDS)
        _record("claim", ((job, EventType.STARTED, cast(datetime, job.started_at)) for job in jobs))
    return jobs


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life of one running job, with what its handler said since the last one."""

    job_id: UUID
    fence: int
    progress: dict[str, Any] | None = None
    version: int = 0
    """The newest version that was pushed with this progress."""
    lines: Sequence[dict[str, Any]] = ()
    """Log lines `{level, message}`, oldest first."""
    moments: Sequence[datetime] = ()
    """When each line was written."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """The answer to a beat: the job is still the worker's."""

    version: int
    sequence: int
    is_cancelled: bool


def beat(beats: Sequence[Beat]) -> dict[UUID, Held]:
    """Renew leases and write progress and log lines down; jobs that are missing in the answer were lost."""
    held = {}
    for each in beats:
        with transaction.atomic():
            if job := _beat(each):
                held[each.job_id] = Held(
                    version=job.version,
                    sequence=job.sequence,
                    is_cancelled=job.cancel_requested_at is not None,
                )
    return held


def _beat(each: Beat) -> Job | None:
    changes: dict[str, Any] = {"lease_until": statements().now() + timedelta(seconds=LEASE_SECONDS)}
    if each.progress is not None or each.lines:
        changes["version"] = Greatest(F("version"), Value(each.version)) + 1
    if each.progress is not None:
        changes["progress"] = each.progress
    if each.lines:
        changes |= {
            "sequence": F("sequence") + len(each.lines),
            "log_lines": F("log_lines") + len(each.lines),
        }
    if not Job.objects.filter(pk=each.job_id, status=RUNNING, fence=each.fence).update(**changes):
        return None
    job = Job.objects.get(pk=each.job_id)
    if each.progress is not None:
        transaction.on_commit(lambda: wakeup.tell_changed(str(job.id)))
    if each.lines:
        first = job.sequence - len(each.lines) + 1
        _append(
            log.Line(job=job, type=EventType.LOG, at=at, sequence=first + place, extra={"log": line})
            for place, (line, at) in enumerate(zip(each.lines, each.moments, strict=True))
        )
    return job


# --- Finish and retry -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended, as its worker saw it."""

    job: Job
    """As it was claimed."""
    result: Any = None
    error: dict[str, Any] | None = None
    """`{code, message}`; None where it went well."""
    traceback: str = ""
    retry: bool = True
    """Whether another attempt could go better."""
    is_cancelled: bool = False
    progress: dict[str, Any] | None = None
    version: int = 0


def finish(outcomes: Sequence[Outcome]) -> set[UUID]:
    """End attempts for good: completed, failed or cancelled.

    Returns:
        The ids of the jobs that moved; the others were fenced off.
    """
    return _settle("finish", [_settlement(each, _end_of(each)) for each in outcomes])


def retry(outcomes: Sequence[Outcome]) -> set[UUID]:
    """End failed attempts that others follow after a pause; a job whose cancelling was asked for ends instead.

    Returns:
        The ids of the jobs that moved; the others were fenced off.
    """
    return _settle("retry", [_settlement(each, PENDING) for each in outcomes])


def conclude(outcomes: Sequence[Outcome]) -> set[UUID]:
    """End attempts as the rules have it: `retry` where another attempt follows, else `finish`."""
    again = [each for each in outcomes if _another_follows(each)]
    ended = [each for each in outcomes if not _another_follows(each)]
    return (finish(ended) if ended else set()) | (retry(again) if again else set())


def _another_follows(outcome: Outcome) -> bool:
    if outcome.error is None or outcome.is_cancelled or not outcome.retry:
        return False
    return outcome.job.failures + 1 + outcome.job.crashes < outcome.job.max_attempts


def _end_of(outcome: Outcome) -> Status:
    if outcome.is_cancelled:
        return CANCELLED
    return FAILED if outcome.error else COMPLETED


def _settlement(outcome: Outcome, status: Status) -> Settlement:
    job = outcome.job
    return Settlement(
        id=job.id,
        fence=job.fence,
        status=status,
        result=outcome.result if status == COMPLETED else None,
        error=outcome.error and outcome.error | {"attempt": job.attempt},
        traceback=outcome.traceback,
        failed=int(outcome.error is not None),
        progress=outcome.progress,
        version=outcome.version,
        delay_seconds=backoff_seconds(job.failures + 1),
        retention_seconds=_retention_of(job).total_seconds(),
    )


def _settle(transition: str, settlements: Sequence[Settlement]) -> set[UUID]:
    with transaction.atomic():
        jobs = statements().settle(settlements)
        _record(
            transition,
            ((job, EVENT_OF_END[Status(job.status)], job.finished_at or statements().now()) for job in jobs),
        )
    return {job.id for job in jobs}


def backoff_seconds(failures: int) -> float:
    """Say how long to wait before the next attempt: doubled each time, with jitter so that crowds spread out."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0**failures) * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret


# --- Rescue, promote, expire: the sweeper's ---------------------------------------------------------------------------


def rescue(limit: int) -> int:
    """Take jobs back whose lease ran out: their worker is lost.

    All is checked again on the locked row, because a job may complete between the look and the grasp
    (riverqueue/river#1302). Index: job_lease.

    Returns:
        How many were taken back.
    """
    with transaction.atomic():
        now = statements().now()
        lost = Job.objects.select_for_update(skip_locked=True).filter(lease_until__lt=now, status=RUNNING)
        jobs = list(lost.order_by("lease_until")[:limit])
        for job in jobs:
            _rescue(job, now)
    return len(jobs)


def _rescue(job: Job, now: datetime) -> None:
    crashes = job.crashes + 1
    if job.cancel_requested_at:
        status, error = CANCELLED, job.error
    else:
        error = {
            "code": "worker_lost",
            "message": "The worker that ran this job was lost.",
            "attempt": job.attempt,
        }
        is_over = bool(job.finish_by and job.finish_by <= now)
        may_run_again = job.failures + crashes < job.max_attempts and crashes < MOST_CRASHES and not is_over
        status = PENDING if may_run_again else FAILED
    changes: dict[str, Any] = {"crashes": crashes, "error": error, "worker": None, "lease_until": None}
    if status == PENDING:
        changes |= {"run_at": now + timedelta(seconds=backoff_seconds(crashes) / 2)}
    else:
        changes |= {"finished_at": now, "expires_at": now + _retention_of(job)}
    _move("rescue", job, status, EVENT_OF_END[status], now, changes, version_step=MOST_UNWRITTEN_VERSIONS)


def release(job_id: UUID, fence: int) -> bool:
    """Put a running job back whose worker has to stop: another takes it at once, and nothing is counted against it.

    The attempt counts as not begun, so that a job with one attempt still has it.

    Returns:
        Whether it was still the worker's.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id, status=RUNNING, fence=fence).first()
        if job is None:
            return False
        now = statements().now()
        changes: dict[str, Any] = {"worker": None, "lease_until": None}
        if job.cancel_requested_at:
            changes |= {"finished_at": now, "expires_at": now + _retention_of(job)}
            _move("release", job, CANCELLED, EventType.CANCELLED, now, changes)
        else:
            changes |= {"ready_at": now, "attempt": job.attempt - 1, "start_by": None}  # it did begin in time
            _ring_on_commit([_move("release", job, PENDING, EventType.RETRYING, now, changes)])
    return True


def promote(limit: int) -> Counter[str]:
    """Make scheduled and retried jobs claimable whose time has come. Index: job_promote.

    Returns:
        How many became due, by queue.
    """
    with transaction.atomic():
        now = statements().now()
        due = Job.objects.select_for_update(skip_locked=True).filter(
            status=PENDING, ready_at__isnull=True, run_at__lte=now, lease_until__isnull=True
        )
        jobs = list(due.only("id", "queue").order_by("run_at")[:limit])
        Job.objects.filter(pk__in=[job.pk for job in jobs], status=PENDING).update(ready_at=now)
    return Counter(job.queue for job in jobs)


def expire(limit: int) -> int:
    """Fail pending jobs that may not begin any more. Indexes: job_start_by, job_finish_by.

    Returns:
        How many ended.
    """
    with transaction.atomic():
        now = statements().now()
        pending = Job.objects.select_for_update(skip_locked=True).filter(status=PENDING)
        late = list(pending.filter(start_by__lte=now, attempt=0).order_by("start_by")[:limit])
        over = list(
            pending.filter(finish_by__lte=now).exclude(pk__in=[job.pk for job in late]).order_by("finish_by")[:limit]
        )
        for job in late:
            _fail_unbegun(job, now, "expired", f"It did not begin within {job.start_within_seconds} s.")
        for job in over:
            _fail_unbegun(job, now, "deadline_exceeded", f"It did not end within {job.deadline_seconds} s.")
    return len(late) + len(over)


def _fail_unbegun(job: Job, now: datetime, code: str, message: str) -> None:
    error = {"code": code, "message": message, "attempt": job.attempt}
    changes = {"error": error, "finished_at": now, "expires_at": now + _retention_of(job), "ready_at": None}
    _move("expire", job, FAILED, EventType.FAILED, now, changes)


# --- Cancel and reopen: the user's ------------------------------------------------------------------------------------


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
            transaction.on_commit(lambda: wakeup.tell_changed(str(job_id)))
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
    changes = {
        "cancel_requested_at": now,
        "finished_at": now,
        "expires_at": now + _retention_of(job),
        "ready_at": None,
    }
    return _move("cancel", job, CANCELLED, EventType.CANCELLED, now, changes)


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
            job = Job.objects.select_for_update().get(pk=job_id)
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
                "ready_at": now,
                "start_by": _after(now, job.start_within_seconds),
                "finish_by": _after(now, job.deadline_seconds),
            }
            reopened = _move("reopen", job, PENDING, EventType.RETRYING, now, changes, extra={"by": by})
            _ring_on_commit([reopened])
            return reopened
    except IntegrityError:
        job = Job.objects.get(pk=job_id)
        standing = Job.objects.filter(
            owner_id=job.owner_id, kind=job.kind, unique_key=job.unique_key, status__in=[PENDING, RUNNING]
        ).first()
        if job.unique_key is None or standing is None:
            raise
        raise UniqueKeyTaken(standing) from None


# --- What all share ---------------------------------------------------------------------------------------------------


def _move(
    transition: str,
    job: Job,
    status: Status,
    event: EventType,
    at: datetime,
    changes: dict[str, Any],
    extra: dict[str, Any] | None = None,
    version_step: int = 1,
) -> Job:
    """Move one locked row along a transition; the guard repeats what the caller saw."""
    guard = Job.objects.filter(pk=job.pk, status__in=TRANSITIONS[transition][0], fence=job.fence, sequence=job.sequence)
    moved = guard.update(status=status, sequence=F("sequence") + 1, version=F("version") + version_step, **changes)
    if not moved:
        raise RuntimeError(f"{transition} of {job.pk}: the locked row changed")
    job = Job.objects.get(pk=job.pk)
    _record(transition, [(job, event, at)], extra)
    return job


def _record(transition: str, moves: Iterable[Move], extra: dict[str, Any] | None = None) -> None:
    """Write the events of jobs that have just moved, tell subscribers, and tell watchers once it is committed."""
    lines = []
    for job, event, at in moves:
        if Status(job.status) not in TRANSITIONS[transition][1]:
            raise RuntimeError(f"{transition} does not lead to {job.status}")
        lines.append(log.Line(job=job, type=event, at=at, sequence=job.sequence, extra=extra or {}))
    _append(lines)


def _append(lines: Iterable[log.Line]) -> None:
    written = list(lines)
    if not written:
        return
    events = log.append(written)
    for each in subscribers():
        each.on_events([(event, line.job) for event, line in zip(events, written, strict=True)])
    transaction.on_commit(wakeup.tell_news)


def _ring_on_commit(jobs: Iterable[Job]) -> None:
    due = Counter(job.queue for job in jobs if job.ready_at)

    def ring() -> None:
        for queue, count in due.items():
            doorbell.ring(queue, count)

    transaction.on_commit(ring)


def _after(now: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _retention_of(job: Job) -> timedelta:
    try:
        return get_kind(job.kind).retention
    except UnknownKind:
        return settings.RETENTION
