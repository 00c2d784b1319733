"""From a request to a promise: reads a submission, keeps its files, and has it accepted once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.serializers import ValidationError

from jobs import lifecycle, log, retention
from jobs.api.authentication import user_of
from jobs.api.errors import Problem
from jobs.api.parsers import read_json
from jobs.api.serializers import SubmissionSerializer, check_params
from jobs.failures import AlreadySubmitted, UniqueKeyTaken
from jobs.files import keep, measure
from jobs.kinds import get_kind
from jobs.lifecycle import Idempotency, Submission
from jobs.models import Job, Status, Upload, new_id
from jobs.representation import as_time, event_as_dict, single_job_as_dict, status_url
from jobs.subscribers import RefusedSubmission, subscribers

LONGEST_KEY = 255
MOST_REPLACED = 5
"""How many jobs one submission replaces that others submit at the same time."""


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
    body, parts = _read(request)
    return accept_submission(user_of(request).pk, body, parts, request.headers.get("Idempotency-Key"))


def accept_submission(
    owner_id: int, body: Mapping[str, Any], parts: Mapping[str, UploadedFile[Any]], idempotency_key: str | None
) -> Accepted:
    """Check a submission that was read, keep its files, and accept it: the API's way and the page's.

    Args:
        owner_id: whose the job will be.
        body: the submission, as the contract has it.
        parts: files by the name of their parameter.
        idempotency_key: None where the client gave none.

    Raises:
        ValidationError, Problem: the submission is wrong.
        UniqueKeyTaken, KeyReused: the promise stands already, and the submission doesn't say to return it.
    """
    serializer = SubmissionSerializer(data=body)
    if not serializer.is_valid():
        raise ValidationError(serializer.errors | _faults_of_params(serializer.errors, body, parts))
    asked = dict(serializer.validated_data)
    on_conflict, team = asked.pop("on_conflict"), asked.pop("team")
    params, files = check_params(asked["kind"], asked["params"], dict(parts))
    _check_with_subscribers(asked)
    digests = {name: measure(file) for name, file in files.items()}
    named = {name: (file.name, digests[name][1]) for name, file in files.items()}
    idempotency = _idempotency(idempotency_key, body, named)
    team_id = _team_id(owner_id, team)
    uploads = {name: _keep(file, owner_id, *digests[name]) for name, file in files.items()}
    submission = Submission(
        **{**asked, "kind": get_kind(asked["kind"]), "params": params},
        owner_id=owner_id,
        team_id=team_id,
        uploads=uploads,
    )
    try:
        return _accept(submission, idempotency, on_conflict)
    finally:
        retention.remove_uploads(each for each in uploads.values() if not each.jobs.exists())


def receipt(accepted: Accepted) -> dict[str, Any]:
    """Write the answer to a submission; a replay's is made from event 1, so it is the first one again."""
    job = accepted.job
    shown = single_job_as_dict(job)
    if accepted.is_replay and (first := log.history(job.id, limit=1)):
        shown = event_as_dict(first[0], job)["data"] | {"params": job.params}
    return {
        "jobId": str(job.id),
        "status": "ACCEPTED",
        "statusUrl": status_url(job.id),
        "eventsUrl": shown["eventsUrl"],
        "createdAt": as_time(job.created_at),
        "job": shown,
    }


def _accept(submission: Submission, idempotency: Idempotency | None, on_conflict: str) -> Accepted:
    replaced = 0
    while True:
        try:
            return Accepted(job=lifecycle.accept([submission], idempotency)[0])
        except AlreadySubmitted as known:
            return Accepted(job=known.job, is_replay=True)
        except UniqueKeyTaken as taken:
            if on_conflict == "return":
                return Accepted(job=taken.standing, is_standing=True)
            if on_conflict == "reject" or replaced == MOST_REPLACED or taken.standing.status != Status.PENDING:
                raise
            # It may begin or end meanwhile, or another may take its place: then look again.
            lifecycle.withdraw(taken.standing.pk)
            replaced += 1


def _read(request: Request) -> tuple[dict[str, Any], dict[str, UploadedFile[Any]]]:
    """Read the body: JSON, or a form whose part `job` is that JSON and whose other parts are files."""
    data, parts = request.data, {}
    if request.content_type.startswith("multipart/form-data"):
        if twins := [name for name in request.FILES if len(request.FILES.getlist(name)) > 1]:
            raise ValidationError({"params": {name: ["Send one file for this."] for name in twins}})
        parts = dict(request.FILES.items())
        if any((file.size or 0) > settings.MAX_UPLOAD_BYTES for file in parts.values()):
            raise RequestDataTooBig
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
    elif request._request.META.get("CONTENT_LENGTH") in (None, "", "0"):
        raise ParseError("The body is empty; it must be the submission as JSON.")
    if not isinstance(data, Mapping):
        raise ValidationError("The submission must be a JSON object.")
    return dict(data), parts


def _check_with_subscribers(asked: Mapping[str, Any]) -> None:
    try:
        for each in subscribers():
            each.check_submission(callback_url=asked["callback_url"], callback_events=asked["callback_events"])
    except RefusedSubmission as refused:
        fault = {"pointer": refused.pointer, "detail": refused.message, "code": refused.code}
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, refused.message, [fault]) from refused


def _faults_of_params(
    faults: Mapping[str, Any], body: Mapping[str, Any], parts: Mapping[str, UploadedFile[Any]]
) -> dict[str, Any]:
    """Check the params though the rest is at fault already, so that all faults are told at once."""
    if "kind" in faults or "params" in faults:
        return {}
    try:
        check_params(body["kind"].strip(), body.get("params", {}), dict(parts))
    except ValidationError as error:
        return dict(error.detail) if isinstance(error.detail, dict) else {}
    return {}


def _team_id(owner_id: int, name: str | None) -> int | None:
    if name is None:
        return None
    team = Group.objects.filter(name=name, user=owner_id).first()
    if team is None:
        raise ValidationError({"team": ["You are in no team of this name."]})
    return team.pk


def _idempotency(key: str | None, body: Mapping[str, Any], parts: dict[str, tuple[str, str]]) -> Idempotency | None:
    if key is None:
        return None
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise Problem(HTTPStatus.BAD_REQUEST, f"Idempotency-Key must be 1 to {LONGEST_KEY} printable characters.")
    canonical = json.dumps([body, parts], sort_keys=True, separators=(",", ":"))
    return Idempotency(key=key, fingerprint=hashlib.sha256(canonical.encode()).hexdigest())


def _keep(file: UploadedFile[Any], owner_id: int, size: int, digest: str) -> Upload:
    """Store a file before its job is promised."""
    upload_id: UUID = new_id()
    upload = Upload(
        id=upload_id, owner_id=owner_id, name=str(file.name), size=size, sha256=digest, created_at=timezone.now()
    )
    keep(upload.file, f"uploads/{upload_id}", file)
    upload.save()
    return upload
