"""A job once more: what it was submitted with, changed where the request says so, is a new submission.

The new job belongs to the old one's owner, whoever asks, and names it in `retriedFrom`. `params` are replaced as a
whole; files are shared, unless the request brings another for their parameter, or says null for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from django.db import IntegrityError
from django.http import Http404
from rest_framework.request import Request

from jobs.api.authentication import user_of
from jobs.api.checks import SubmissionChecker
from jobs.api.submission import (
    Accepted,
    SharedFile,
    accept_checked,
    check_sizes,
    digests_of,
    idempotency_of,
    named,
    read_submission,
)
from jobs.models import Job, JobUpload

OF_KIND = ("maxAttempts", "timeout")
"""What a job has of its kind where its submission doesn't say."""


def rerun(request: Request, job: Job) -> Accepted:
    """Accept a job like an earlier one.

    Args:
        request: of somebody who may change the earlier job; its body, if it has one, says what is to be different.
        job: the earlier one.

    Raises:
        ValidationError, Problem, ParseError, RequestDataTooBig: the request, or what comes of it, is wrong.
        UniqueKeyTaken, KeyReused: the promise stands already, and the request doesn't say to return it.
        Http404: the earlier job was removed meanwhile.
    """
    changes, parts = read_submission(request, may_be_empty=True)
    check_sizes(parts)
    rows = JobUpload.objects.filter(job=job).select_related("upload")
    kept = {each.param: SharedFile(each.upload) for each in rows}
    body = as_submitted(job, without=kept) | changes
    if "kind" in changes:  # which has limits of its own
        body = {name: value for name, value in body.items() if name in changes or name not in OF_KIND}
    if isinstance(body["params"], dict):
        dropped = {name for name in kept if body["params"].get(name, "") is None}
        body["params"] = {name: value for name, value in body["params"].items() if name not in dropped}
        kept = {name: file for name, file in kept.items() if name not in dropped}
    try:
        checked = SubmissionChecker(job.owner_id).check(body, {**kept, **parts})
        digests = digests_of(checked.files)
        said = ("rerun", str(job.pk), changes, named(parts, digests))
        idempotency = idempotency_of(request.headers.get("Idempotency-Key"), user_of(request).pk, *said)
        again = replace(checked, submission=replace(checked.submission, retried_from_id=job.pk))
        return accept_checked(again, digests, idempotency)
    except IntegrityError:
        if Job.objects.filter(pk=job.pk).exists():
            raise
        raise Http404 from None
    finally:
        for each in kept.values():
            each.upload.file.close()


def as_submitted(job: Job, without: Collection[str]) -> dict[str, Any]:
    """Write a job's submission; when it was to run the first time means nothing now.

    Args:
        job: the row.
        without: params that are files.
    """
    return {
        "kind": job.kind,
        "params": {name: value for name, value in job.params.items() if name not in without},
        "callbackUrl": job.callback_url,
        "callbackEvents": job.callback_events,
        "priority": job.priority,
        "maxAttempts": job.max_attempts,
        "timeout": job.timeout_seconds,
        "startWithin": job.start_within_seconds,
        "deadline": job.deadline_seconds,
        "uniqueKey": job.unique_key,
        "team": job.team and job.team.name,
        "tags": job.tags,
        "metadata": job.metadata,
    }
