"""From a request for many jobs to one promise: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.db import transaction
from rest_framework.exceptions import ErrorDetail, ParseError, ValidationError
from rest_framework.request import Request

from jobs import lifecycle
from jobs.api.authentication import user_of
from jobs.api.checks import Checked, SubmissionChecker, check_callback
from jobs.api.errors import MOST_FAULTS, Problem
from jobs.api.serializers import BatchRequestSerializer
from jobs.api.submission import as_accepted, check_quota, idempotency_of, is_empty, receipt_as_dict
from jobs.failures import AlreadySubmitted, UniqueKeyTaken
from jobs.garbage import uncollected
from jobs.lifecycle import Idempotency
from jobs.models import Batch, Event, IdempotencyKey, Job, Status
from jobs.representation import batch_url, single_job_as_dict

MOST_CONFLICTS = 5
"""How often others may take a unique key between the look at who holds it and the promise."""


@dataclass(frozen=True, kw_only=True)
class AcceptedBatch:
    """What became of a batch's submission."""

    batch: Batch
    shown: Sequence[dict[str, Any]]
    """The single Jobs for the receipts, in the order of the submissions."""
    is_replay: bool = False
    """Whether the idempotency key had made the batch before."""


@uncollected()  # a thousand jobs are half a million objects, and none of them is garbage before the answer is written
def submit_batch(request: Request) -> AcceptedBatch:
    """Accept the jobs that a request asks for, all or none.

    Raises:
        ValidationError, Problem, ParseError: the request is wrong, or one of its jobs is.
        KeyReused: the idempotency key came before with something else.
        TooManyUnfinished: the asker would have more unfinished jobs than one may have.
        UniqueKeyTaken: others kept taking a unique key.
    """
    if is_empty(request):
        raise ParseError("The body is empty; it must be the batch as JSON.")
    owner_id, body = user_of(request).pk, request.data
    serializer = BatchRequestSerializer(data=body)
    serializer.is_valid(raise_exception=True)
    callback_url: str = serializer.validated_data["callback_url"]
    check_callback(callback_url, ())
    checked = check_jobs(owner_id, serializer.validated_data["jobs"])
    idempotency = idempotency_of(request.headers.get("Idempotency-Key"), owner_id, "batch", body)
    for left in reversed(range(MOST_CONFLICTS)):
        try:
            with transaction.atomic():
                return _accept(checked, owner_id, callback_url, idempotency)
        except AlreadySubmitted as again:
            return _replay(again.known)
        except UniqueKeyTaken:
            if not left:
                raise
    raise AssertionError  # pragma: no cover - the last turn returns or raises


def check_jobs(owner_id: int, bodies: Sequence[Any]) -> list[Checked]:
    """Check the jobs of a batch.

    Raises:
        ValidationError: with a pointer for each fault of each job; not all are told where they are many.
    """
    checker = SubmissionChecker(owner_id)
    checked: list[Checked] = []
    faults: dict[str, Any] = {}
    places: dict[tuple[str, str], int] = {}
    for place, body in enumerate(bodies):
        try:
            job = checker.check(body, {})
        except ValidationError as error:
            faults[str(place)] = error.detail
        else:
            checked.append(job)
            if key := job.submission.unique_key:
                first = places.setdefault((job.submission.kind.name, key), place)
                if first != place:
                    told = f"Job {first} of this batch has the same kind and key."
                    faults[str(place)] = {"uniqueKey": [ErrorDetail(told, code="repeated")]}
        if len(faults) == MOST_FAULTS:
            break
    if faults:
        raise ValidationError({"jobs": faults})
    return checked


def receipts_of(accepted: AcceptedBatch) -> dict[str, Any]:
    """Write the answer to a batch's submission."""
    return {
        "batchId": str(accepted.batch.pk),
        "batchUrl": batch_url(accepted.batch.pk),
        "jobs": [receipt_as_dict(each) for each in accepted.shown],
    }


def _accept(
    checked: Sequence[Checked], owner_id: int, callback_url: str, idempotency: Idempotency | None
) -> AcceptedBatch:
    """Accept checked jobs, inside the transaction in which jobs that are in their way are cancelled.

    Raises:
        AlreadySubmitted, KeyReused: the idempotency key came before.
        Problem: a unique key is taken, and its submission doesn't want the job that holds it.
        UniqueKeyTaken: another took a unique key meanwhile.
        TooManyUnfinished: they would be too many.
    """
    standing = _make_way(checked, idempotency)
    new = [each.submission for place, each in enumerate(checked) if place not in standing]
    check_quota(owner_id, len(new), idempotency)
    batch, jobs = lifecycle.accept_batch(new, owner_id, callback_url, idempotency=idempotency, standing=standing)
    made = iter(jobs)
    in_order = [standing.get(place) or next(made) for place in range(len(checked))]
    return AcceptedBatch(batch=batch, shown=[single_job_as_dict(job) for job in in_order])


def _make_way(checked: Sequence[Checked], idempotency: Idempotency | None) -> dict[int, Job]:
    """See to the jobs that hold unique keys, as each submission says.

    Returns:
        Those that are answered in place of new ones, by place.
    """
    holding = lifecycle.standing_jobs([each.submission for each in checked])
    if holding and idempotency:
        lifecycle.recall(idempotency)  # it may be this very batch that holds them
    refused = {
        place
        for place, job in holding.items()
        if checked[place].on_conflict == "reject"
        or (checked[place].on_conflict == "replace" and job.status != Status.PENDING)
    }
    if refused:
        told = "Another job with this uniqueKey isn't finished yet."
        faults = [
            {"pointer": f"/jobs/{place}/uniqueKey", "detail": told, "code": "unique_key_taken"}
            for place in sorted(refused)
        ]
        raise Problem(HTTPStatus.CONFLICT, "Some of these jobs have a uniqueKey that is taken.", faults[:MOST_FAULTS])
    for place, job in sorted(holding.items(), key=lambda each: each[1].pk):  # all lock them in one order
        if checked[place].on_conflict == "replace":
            lifecycle.withdraw(job.pk)
    return {place: job for place, job in holding.items() if checked[place].on_conflict == "return"}


def _replay(known: IdempotencyKey) -> AcceptedBatch:
    """Give again what an idempotency key was bound to, each job as it was at first; those gone by now are left out."""
    if known.batch is None:
        raise LookupError(f"the idempotency key {known.pk} is bound to no batch")
    made = [as_accepted(*each) for each in _first_events(batch_id=known.batch.pk)]
    standing = {str(job.pk): as_accepted(first, job) for first, job in _first_events(job_ids=known.standing.values())}
    for place, job_id in sorted(known.standing.items(), key=lambda each: int(each[0])):
        if job_id in standing:
            made.insert(int(place), standing[job_id])
    return AcceptedBatch(batch=known.batch, shown=made, is_replay=True)


def _first_events(*, batch_id: UUID | None = None, job_ids: Any = ()) -> list[tuple[Event, Job]]:
    jobs: Mapping[str, Any] = {"job__batch": batch_id} if batch_id else {"job__in": list(job_ids)}
    events = Event.objects.filter(**jobs, sequence=1).select_related("job").order_by("job")
    return [(event, event.job) for event in events if event.job]
