"""What the views of the pages share: who reads, what they may see, and where they go on."""

from __future__ import annotations

from datetime import datetime
from typing import cast
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import prefetch_related_objects
from django.http import Http404, HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme

from jobs.api import listing
from jobs.models import Job
from jobs.pages.shown import ShownJob
from jobs.visibility import Viewer, viewer_of


def user_of(request: HttpRequest) -> User:
    """Give the reader of a page behind `login_required`, which has let nobody else through."""
    return cast("User", request.user)


def viewer_of_request(request: HttpRequest) -> Viewer:
    """Look up what the reader of a page may see."""
    return viewer_of(user_of(request))


def visible_job(viewer: Viewer, job_id: UUID) -> Job:
    """Find a job that the reader may see.

    Raises:
        Http404: there is none, or it is another's.
    """
    visible = Job.objects.filter(viewer.visible(), pk=job_id).select_related("team")
    job = listing.with_artifacts(visible).first()
    if job is None:
        raise Http404
    return job


def shown_jobs(jobs: list[Job], viewer: Viewer, now: datetime) -> list[ShownJob]:
    """Make jobs ready to be shown, with their uploads: one query for them all."""
    prefetch_related_objects(jobs, "uploads")
    return [ShownJob(each, viewer, now) for each in jobs]


def uuid_or_none(text: str) -> UUID | None:
    """Read an id from an address; None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def next_address(request: HttpRequest) -> str:
    """Read where a form goes on: a path of our own, and nothing else."""
    address = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(address, allowed_hosts=None, require_https=request.is_secure())
    return address if is_ours and address.startswith("/") else "/"
