"""From a request to a promise: reads a submission, keeps its files, and has it accepted once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files import File
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.serializers import ValidationError

from jobs import lifecycle, log, retention
from jobs.api.authentication import user_of
from jobs.api.checks import Checked, SubmissionChecker
from jobs.api.errors import Problem
from jobs.api.parsers import read_json
from jobs.failures import AlreadySubmitted, TooManyUnfinished, UniqueKeyTaken
from jobs.files import keep, measure
from jobs.lifecycle import Idempotency, Submission
from jobs.models import Event, IdempotencyKey, Job, Status, Upload, new_id
from jobs.quota import check_unfinished
from jobs.representation import event_as_dict, single_job_as_dict

LONGEST_KEY = 255
MOST_REPLACED = 5
"""How many jobs one submission replaces that others submit at the same time."""


class SharedFile(File):  # type: ignore[type-arg]  # Django's own takes none at run time
    """A file that an earlier job came with and that another is to share; it is opened only if somebody reads it."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.name = upload.name
        self.mode = "rb"

    @property
    def file(self) -> Any:  # type: ignore[override]  # opened when somebody reads it
        """The stored file, open."""
        return self.upload.file.file

    @property
    def size(self) -> int:
        return self.upload.size


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of a submission."""

    job: Job
    is_replay: bool = False
    """Whether the idempotency key had made the job before."""
    is_standing: bool = False
    """Whether the unique key's standing job is answered instead of a new one."""


def submit(request: Request) -> Accepted:
    """Accept the job that a request asks for.

    Raises:
        ValidationError, Problem, ParseError: the request is wrong.
        UniqueKeyTaken, KeyReused: the promise stands already, and the request doesn't say to return it.
    """
    body, parts = read_submission(request)
    return accept_submission(user_of(request).pk, body, parts, request.headers.get("Idempotency-Key"))


def accept_submission(
    owner_id: int, body: Mapping[str, Any], parts: Mapping[str, UploadedFile[Any]], idempotency_key: str | None
) -> Accepted:
    """Check a submission that was read, keep its files, and accept it: the way of the API, the page and the command.

    Args:
        owner_id: whose the job will be.
        body: the submission, as the contract has it.
        parts: files by the name of their parameter.
        idempotency_key: None where the client gave none.

    Raises:
        ValidationError, Problem, RequestDataTooBig: the submission is wrong.
        UniqueKeyTaken, KeyReused: the promise stands already, and the submission doesn't say to return it.
    """
    check_sizes(parts)
    checked = SubmissionChecker(owner_id).check(body, parts)
    digests = digests_of(checked.files)
    idempotency = idempotency_of(idempotency_key, owner_id, body, named(checked.files, digests))
    return accept_checked(checked, digests, idempotency)


def accept_checked(
    checked: Checked, digests: Mapping[str, tuple[int, str]], idempotency: Idempotency | None
) -> Accepted:
    """Keep the files of a checked submission and accept it.

    Args:
        checked: what is to be accepted.
        digests: size and SHA-256 of each of its files.
        idempotency: what the client gave, if it did.

    Raises:
        UniqueKeyTaken, KeyReused: the promise stands already, and the submission doesn't say to return it.
        TooManyUnfinished: its owner has as many unfinished jobs as one may have.
    """
    submission = checked.submission
    try:
        check_quota(submission.owner_id, 1, idempotency)
    except TooManyUnfinished:
        if not lifecycle.standing_jobs([submission]):  # which is no job more
            raise
    uploads = {
        name: file.upload if isinstance(file, SharedFile) else _keep(file, submission.owner_id, *digests[name])
        for name, file in checked.files.items()
    }
    try:
        return _accept(replace(submission, uploads=uploads), idempotency, checked.on_conflict)
    finally:
        retention.remove_uploads(each for each in uploads.values() if not each.jobs.exists())


def receipt(accepted: Accepted) -> dict[str, Any]:
    """Write the answer to a submission; a replay's is made from event 1, so it is the first one again."""
    job = accepted.job
    shown = single_job_as_dict(job)
    if accepted.is_replay and (first := log.history(job.id, limit=1)):
        shown = as_accepted(first[0], job)
    return receipt_as_dict(shown)


def as_accepted(first: Event, job: Job) -> dict[str, Any]:
    """Show the single Job as its first event has it."""
    shown: dict[str, Any] = event_as_dict(first, job)["data"]
    return shown | {"params": job.params}


def receipt_as_dict(shown: dict[str, Any]) -> dict[str, Any]:
    """Write a receipt with the single Job that is to stand in it."""
    return {
        "jobId": shown["jobId"],
        "status": "ACCEPTED",
        "statusUrl": shown["statusUrl"],
        "eventsUrl": shown["eventsUrl"],
        "createdAt": shown["createdAt"],
        "job": shown,
    }


def _accept(submission: Submission, idempotency: Idempotency | None, on_conflict: str) -> Accepted:
    replaced = 0
    while True:
        try:
            return Accepted(job=lifecycle.accept([submission], idempotency)[0])
        except AlreadySubmitted as again:
            return replay_of(again.known)
        except UniqueKeyTaken as taken:
            if on_conflict == "return":
                if accepted := _give_standing(taken.standing, idempotency):
                    return accepted
                continue
            if on_conflict == "reject" or replaced == MOST_REPLACED or taken.standing.status != Status.PENDING:
                raise
            # It may begin or end meanwhile, or another may take its place: then look again.
            lifecycle.withdraw(taken.standing.pk)
            replaced += 1


def _give_standing(standing: Job, idempotency: Idempotency | None) -> Accepted | None:
    """Answer with the standing job, and remember that for the idempotency key; None where the job is gone by now."""
    if idempotency:
        try:
            lifecycle.remember_standing(idempotency, standing)
        except AlreadySubmitted as again:
            return replay_of(again.known)
        except Job.DoesNotExist:
            return None
    return Accepted(job=standing, is_standing=True)


def replay_of(known: IdempotencyKey) -> Accepted:
    """Give again what an idempotency key was bound to."""
    if known.job is None:
        raise LookupError(f"the idempotency key {known.pk} is bound to no job")
    return Accepted(job=known.job, is_replay=True, is_standing=bool(known.standing))


def read_submission(
    request: Request, *, may_be_empty: bool = False
) -> tuple[dict[str, Any], dict[str, UploadedFile[Any]]]:
    """Read a body: JSON, or a form whose part `job` is that JSON and whose other parts are files.

    Raises:
        ValidationError, Problem, ParseError, RequestDataTooBig: it is none.
    """
    data, parts = request.data, {}
    if request.content_type.startswith("multipart/form-data"):
        if twins := [name for name in request.FILES if len(request.FILES.getlist(name)) > 1]:
            raise ValidationError({"params": {name: ["Send one file for this."] for name in twins}})
        parts = dict(request.FILES.items())
        described = parts.pop("job", None)
        if described and (described.size or 0) > settings.MAX_JSON_BYTES:
            raise RequestDataTooBig
        text = described.read() if described else request.POST.get("job")
        if not text:
            raise Problem(HTTPStatus.BAD_REQUEST, "The form has no part named job; it carries the submission as JSON.")
        if stray := [name for name in request.POST if name != "job"]:
            raise ValidationError(
                {"params": {name: ["Only files are parts; put this into job.params."] for name in stray}}
            )
        data = read_json(text)
    elif is_empty(request):
        if not may_be_empty:
            raise ParseError("The body is empty; it must be the submission as JSON.")
        data = {}
    if not isinstance(data, Mapping):
        raise ValidationError("The submission must be a JSON object.")
    return dict(data), parts


def is_empty(request: Request) -> bool:
    """Tell whether a request has no body."""
    return request._request.META.get("CONTENT_LENGTH") in (None, "", "0")


def check_sizes(parts: Mapping[str, UploadedFile[Any]]) -> None:
    """Refuse files that are too large.

    Raises:
        RequestDataTooBig: one is.
    """
    if any((file.size or 0) > settings.MAX_UPLOAD_BYTES for file in parts.values()):
        raise RequestDataTooBig


def digests_of(files: Mapping[str, File[Any]]) -> dict[str, tuple[int, str]]:
    """Give size and SHA-256 of each file; of one that is kept already they are known."""
    return {
        name: (file.upload.size, file.upload.sha256) if isinstance(file, SharedFile) else measure(file)
        for name, file in files.items()
    }


def named(files: Mapping[str, File[Any]], digests: Mapping[str, tuple[int, str]]) -> dict[str, tuple[str | None, str]]:
    """Say what an idempotency key stands for of the files: their names and digests."""
    return {name: (file.name, digests[name][1]) for name, file in files.items()}


def idempotency_of(key: str | None, owner_id: int, *said: Any) -> Idempotency | None:
    """Bind a client's key to what its request says.

    Args:
        key: the header's value; None where there is none.
        owner_id: who asks.
        said: all that tells this request from another, as JSON.

    Raises:
        Problem: the key is malformed.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise Problem(HTTPStatus.BAD_REQUEST, f"Idempotency-Key must be 1 to {LONGEST_KEY} printable characters.")
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return Idempotency(key=key, owner_id=owner_id, fingerprint=hashlib.sha256(canonical.encode()).hexdigest())


def check_quota(owner_id: int, more: int, idempotency: Idempotency | None) -> None:
    """Refuse jobs too many, but not what was promised before.

    Raises:
        TooManyUnfinished: the user would have more than one may have.
        KeyReused: the idempotency key came before with another submission.
    """
    try:
        check_unfinished(owner_id, more)
    except TooManyUnfinished:
        if idempotency is None:
            raise
        try:
            lifecycle.recall(idempotency)
        except AlreadySubmitted:
            return  # it is no job more
        raise


def _keep(file: File[Any], owner_id: int, size: int, digest: str) -> Upload:
    """Store a file before its job is promised."""
    upload_id: UUID = new_id()
    upload = Upload(
        id=upload_id, owner_id=owner_id, name=str(file.name), size=size, sha256=digest, created_at=timezone.now()
    )
    keep(upload.file, f"uploads/{upload_id}", file)
    upload.save()
    return upload
