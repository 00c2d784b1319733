"""Users promise: accept, one job or many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import Any
from uuid import UUID

from django.db import IntegrityError, OperationalError, transaction

from jobs import limits, metrics
from jobs.failures import AlreadySubmitted, KeyReused, UniqueKeyRepeated, UniqueKeyTaken
from jobs.garbage import uncollected
from jobs.kinds import Kind
from jobs.lifecycle.transitions import PENDING, RUNNING, close_batches, ring_on_commit, tell_of_new
from jobs.models import Batch, IdempotencyKey, Job, JobUpload, Upload, new_id
from jobs.sql import statements
from jobs.sql.rows import job_of

IDEMPOTENCY_HOURS = 24
MOST_CONFLICTS = 3
"""How often what stands in a submission's way may be gone when it is looked for."""
DEFAULTS = {each.attname: each.get_default() for each in Job._meta.concrete_fields}
"""What a job's fields hold where a submission says nothing; those that are made anew for each job, it says."""


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
    retried_from_id: UUID | None = None
    """The job that this one repeats."""


OWN = ("params", "uploads", "callback_events", "tags", "metadata", "unique_key")
"""What each submission says for itself; in all else those that come together are mostly alike."""
_rest_of = itemgetter(*(each.name for each in fields(Submission) if each.name not in OWN))


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """The key that a client gave with its submission, and what the submission said."""

    key: str
    owner_id: int
    """Who gave it, which need not be who will own the job."""
    fingerprint: str
    """SHA-256, hexadecimal."""


def accept(submissions: Sequence[Submission], idempotency: Idempotency | None = None) -> list[Job]:
    """Promise jobs, all or none: once this returns, they will run though every process dies.

    Raises:
        AlreadySubmitted: the idempotency key came before with the same submission; carries what it made.
        KeyReused: the idempotency key came before with another submission.
        UniqueKeyTaken: a job with this unique key isn't final yet; carries it.
    """
    for _ in range(MOST_CONFLICTS):
        try:
            return _promise(submissions, idempotency, None)
        except (IntegrityError, OperationalError) as error:
            if not _is_conflict(error):
                raise
            _explain_conflict(submissions, idempotency)
    return _promise(submissions, idempotency, None)  # what stood in the way has ended since


def accept_batch(
    submissions: Sequence[Submission],
    owner_id: int,
    callback_url: str = "",
    *,
    idempotency: Idempotency | None = None,
    standing: Mapping[int, Job] | None = None,
) -> tuple[Batch, list[Job]]:
    """Promise jobs that belong together, all or none; once all are final, the log tells of the batch.

    A batch has no counters that its jobs would wait for: they are counted when somebody asks. One without jobs is
    complete at once.

    Args:
        submissions: of one user.
        owner_id: that user.
        callback_url: where the batch's end is told; empty for nowhere.
        idempotency: what the client gave, if it did.
        standing: jobs that are given in place of new ones, by their place among all; the key remembers them.

    Raises:
        AlreadySubmitted: the idempotency key came before with the same submissions; carries what it made.
        KeyReused: the idempotency key came before with others.
        UniqueKeyRepeated: two of the jobs have the same kind and unique key.
        UniqueKeyTaken: a job with one of the unique keys isn't final yet; carries it.
    """
    keys = Counter((each.owner_id, each.kind.name, each.unique_key) for each in submissions if each.unique_key)
    if repeated := [key for (_, _, key), count in keys.items() if count > 1]:
        raise UniqueKeyRepeated(f"The uniqueKey {repeated[0]!r} comes twice for the same kind.")
    for _ in range(MOST_CONFLICTS):
        try:
            return _promise_batch(submissions, owner_id, callback_url, idempotency, standing or {})
        except (IntegrityError, OperationalError) as error:
            if not _is_conflict(error):
                raise
            _explain_conflict(submissions, idempotency)
    return _promise_batch(submissions, owner_id, callback_url, idempotency, standing or {})


def _promise_batch(
    submissions: Sequence[Submission],
    owner_id: int,
    callback_url: str,
    idempotency: Idempotency | None,
    standing: Mapping[int, Job],
) -> tuple[Batch, list[Job]]:
    teams = {each.team_id for each in submissions}
    with transaction.atomic():
        batch = Batch.objects.create(
            owner_id=owner_id,
            team_id=teams.pop() if len(teams) == 1 else None,
            total=len(submissions),
            callback_url=callback_url,
            created_at=statements().now(),
        )
        if idempotency:
            _remember(idempotency, batch.created_at, batch=batch, standing=standing)
        if submissions:
            return batch, _promise(submissions, None, batch.pk)
        transaction.on_commit(lambda: close_batches([batch.pk]))
        return batch, []


def remember_standing(idempotency: Idempotency, standing: Job) -> None:
    """Bind an idempotency key to the job that its submission was given in place of a new one.

    Raises:
        AlreadySubmitted: the key came before with the same submission; carries what it made.
        KeyReused: the key came before with another submission.
        Job.DoesNotExist: the standing job was removed meanwhile.
    """
    try:
        with transaction.atomic():
            _remember(idempotency, statements().now(), job=standing, standing={0: standing})
    except IntegrityError as error:
        _explain_conflict([], idempotency)
        raise Job.DoesNotExist from error


def _promise(submissions: Sequence[Submission], idempotency: Idempotency | None, batch_id: UUID | None) -> list[Job]:
    with transaction.atomic(), uncollected():
        now = statements().now()
        alike, varying = _new_jobs(submissions, now, batch_id)
        statements().accept(alike, varying)
        jobs = list(chain.from_iterable(alike))
        uploads = [
            JobUpload(job=job, upload=upload, param=param)
            for job, each in zip(jobs, submissions, strict=True)
            if each.uploads
            for param, upload in each.uploads.items()
        ]
        if uploads:
            JobUpload.objects.bulk_create(uploads)
        if idempotency:
            _remember(idempotency, now, job=jobs[0])
        tell_of_new(alike)
        metrics.count_accepted(alike)
        limits.let_in(some[0] for some in alike)
        ring_on_commit(jobs)
    return jobs


def _new_jobs(
    submissions: Sequence[Submission], now: datetime, batch_id: UUID | None
) -> tuple[list[list[Job]], set[str]]:
    """Make the jobs; of submissions in a row that are alike but for their `OWN`, the rest is worked out once.

    Returns:
        The jobs in their order, those that are alike together, and the columns in which they may differ.
    """
    alike: list[list[Job]] = []
    known: tuple[Any, ...] | None = None
    sorts: list[dict[str, Any]] = []
    for each in submissions:
        if (rest := _rest_of(vars(each))) != known:
            known = rest
            sorts.append(_values_of(each, now, batch_id))
            alike.append([])
        values = {
            **sorts[-1],
            "id": new_id(),
            "params": each.params,
            "callback_events": list(each.callback_events),
            "tags": list(each.tags),
            "metadata": dict(each.metadata),
            "unique_key": each.unique_key,
        }
        alike[-1].append(job_of(values))
    first = sorts[0]
    return alike, {"id", *OWN}.union(*({name for name in first if each[name] != first[name]} for each in sorts[1:]))


def _values_of(submission: Submission, now: datetime, batch_id: UUID | None) -> dict[str, Any]:
    """Say what a job's fields hold, but for its id and what is its submission's own."""
    is_due = submission.run_at is None or submission.run_at <= now
    gate = limits.first_gate(submission.kind) if is_due else 0
    return {
        **DEFAULTS,
        "owner_id": submission.owner_id,
        "team_id": submission.team_id,
        "batch_id": batch_id,
        "retried_from_id": submission.retried_from_id,
        "kind": submission.kind.name,
        "queue": submission.kind.queue,
        "priority": submission.priority,
        "max_attempts": submission.max_attempts or submission.kind.max_attempts,
        "timeout_seconds": submission.timeout_seconds or submission.kind.timeout_seconds,
        "start_within_seconds": submission.start_within_seconds,
        "deadline_seconds": submission.deadline_seconds,
        "callback_url": submission.callback_url,
        "created_at": now,
        "run_at": submission.run_at,
        "ready_at": now if is_due and not gate else None,
        "gate": gate,
        "start_by": after(now, submission.start_within_seconds),
        "finish_by": after(now, submission.deadline_seconds),
    }


def after(now: datetime, seconds: int | None) -> datetime | None:
    """Give the moment so many seconds later; None means never."""
    return None if seconds is None else now + timedelta(seconds=seconds)


def _remember(
    idempotency: Idempotency,
    now: datetime,
    *,
    job: Job | None = None,
    batch: Batch | None = None,
    standing: Mapping[int, Job] | None = None,
) -> None:
    """Bind the key to what was made; a key that is past its day may be used again."""
    old = now - timedelta(hours=IDEMPOTENCY_HOURS)
    keys = IdempotencyKey.objects.filter(owner_id=idempotency.owner_id, key=idempotency.key)
    keys.filter(created_at__lt=old).delete()
    IdempotencyKey.objects.create(
        owner_id=idempotency.owner_id,
        key=idempotency.key,
        fingerprint=idempotency.fingerprint,
        job=job,
        batch=batch,
        standing={str(place): str(each.pk) for place, each in (standing or {}).items()},
        created_at=now,
    )


def _is_conflict(error: Exception) -> bool:
    """Tell whether another promise stood in the way: found there, or met in a deadlock (PostgreSQL's 40P01)."""
    return isinstance(error, IntegrityError) or getattr(error.__cause__, "sqlstate", "") == "40P01"


def _explain_conflict(submissions: Sequence[Submission], idempotency: Idempotency | None) -> None:
    """Say which promise stood already, read after the losing transaction is over."""
    if idempotency:
        recall(idempotency)
    if standing := standing_jobs(submissions):
        raise UniqueKeyTaken(standing[min(standing)])


def recall(idempotency: Idempotency) -> None:
    """Say what an idempotency key made before, if it did.

    Raises:
        AlreadySubmitted: it came before with the same submission; carries what it made.
        KeyReused: it came before with another submission.
    """
    since = statements().now() - timedelta(hours=IDEMPOTENCY_HOURS)
    keys = IdempotencyKey.objects.filter(owner_id=idempotency.owner_id, key=idempotency.key, created_at__gte=since)
    known = keys.select_related("job", "batch").first()
    if known and known.fingerprint == idempotency.fingerprint:
        raise AlreadySubmitted(known)
    if known:
        raise KeyReused("This Idempotency-Key came before with another submission.")


def standing_jobs(submissions: Sequence[Submission]) -> dict[int, Job]:
    """Find the unfinished jobs that hold unique keys of submissions. Index: job_unique_key.

    Returns:
        The jobs, each by the place of its submission.
    """
    places = {
        (each.owner_id, each.kind.name, each.unique_key): place
        for place, each in enumerate(submissions)
        if each.unique_key is not None
    }
    found: dict[int, Job] = {}
    for owner_id, kind in {(owner_id, kind) for owner_id, kind, _ in places}:
        holding = Job.objects.filter(
            owner_id=owner_id,
            kind=kind,
            unique_key__in=[key for *sort, key in places if sort == [owner_id, kind]],
            status__in=[PENDING, RUNNING],
        )
        found |= {places[owner_id, kind, job.unique_key]: job for job in holding if job.unique_key is not None}
    return found
