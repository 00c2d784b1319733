"""Who asks, and what they may see and change: the owner and staff change, team mates read, others find nothing."""

from __future__ import annotations

from http import HTTPStatus
from uuid import UUID

from django.http import Http404
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from jobs.api import listing
from jobs.api.authentication import user_of
from jobs.api.errors import Problem
from jobs.models import Batch, Job
from jobs.visibility import Viewer, viewer_of


def viewer(request: Request) -> Viewer:
    """Tell what the asker may see."""
    return viewer_of(user_of(request), request.auth, request._request.session.session_key)


def visible_job(request: Request, job_id: UUID) -> Job:
    """Find a job that the asker may see, with its files.

    Raises:
        Http404: there is none, or it is another's.
    """
    job = listing.with_artifacts(Job.objects.filter(viewer(request).visible(), pk=job_id)).first()
    if job is None:
        raise Http404
    return job


def changeable_job(request: Request, job_id: UUID) -> Job:
    """Find a job that the asker may change.

    Raises:
        Http404: there is none, or it is not theirs to see.
        Problem: they may see it and not change it.
    """
    job = visible_job(request, job_id)
    if job.owner_id != user_of(request).pk and not request.user.is_staff:
        raise Problem(HTTPStatus.FORBIDDEN, "Only the job's owner and staff may do this.")
    return job


def visible_batch(request: Request, batch_id: UUID) -> Batch:
    """Find a batch that the asker may see: its owner, staff, and the team that all of its jobs are shared with.

    Raises:
        Http404: there is none, or it is another's.
    """
    batch = Batch.objects.filter(viewer(request).visible(), pk=batch_id).first()
    if batch is None:
        raise Http404
    return batch


def sees_all(request: Request) -> bool:
    """Tell whether staff ask for everybody's things.

    Raises:
        ValidationError: `?scope=` is something else.
    """
    scope = request.query_params.get("scope")
    if scope not in (None, "all"):
        raise ValidationError({"scope": ["This can only be all."]})
    return scope == "all"
