"""One job: its page, and what its forms do to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from jobs import lifecycle, retention
from jobs.estimates import estimates_of
from jobs.failures import UniqueKeyTaken, WrongState
from jobs.models import Job
from jobs.pages.counts import count_jobs
from jobs.pages.history import callback_host, history_of
from jobs.pages.reading import next_address, shown_jobs, user_of, viewer_of_request, visible_job
from jobs.representation import status_url
from jobs.subscribers import subscribers


@require_safe
@never_cache
@login_required
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Show a job: how it stands, what came of it, what happened and who heard of it."""
    viewer, now = viewer_of_request(request), timezone.now()
    found = visible_job(viewer, job_id)
    shown = replace(shown_jobs([found], viewer, now)[0], estimates=estimates_of(found))
    context = {
        "counts": count_jobs(viewer, now),
        "shown": shown,
        "job": found,
        "history": history_of(found),
        "callback_host": callback_host(found),
        "waited": _waited(found),
        "must_force": shown.may_change and found.is_final and _has_open_work(job_id),
        "curl": f'curl -H "Authorization: Bearer $KABAR_TOKEN" \\\n  {status_url(job_id)}',
        "artifact_hours": settings.ARTIFACT_URL_SECONDS // 3600,
    }
    return render(request, "job.html", context)


@require_POST
@login_required
def cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Cancel a job."""
    if _may_change(request, job_id):
        try:
            lifecycle.cancel(job_id)
        except WrongState:
            messages.error(request, _("This job is over; only an unfinished one can be cancelled."))
    return _back(request, job_id)


@require_POST
@login_required
def retry(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Run a failed or cancelled job again."""
    if _may_change(request, job_id):
        try:
            lifecycle.reopen(job_id, by=user_of(request).get_username())
        except WrongState:
            messages.error(request, _("Only a failed or cancelled job can be retried."))
        except UniqueKeyTaken:
            messages.error(request, _("Another job with the same unique key isn't finished yet. Wait for it."))
    return _back(request, job_id)


@require_POST
@login_required
def delete(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Remove a finished job with its files and deliveries."""
    if not _may_change(request, job_id):
        return _back(request, job_id)
    if request.POST.get("force") != "true" and _has_open_work(job_id):
        messages.error(request, _("A delivery of this job is still to be made. Wait for it, or delete again."))
        return _back(request, job_id)
    if not retention.remove([job_id]):
        messages.error(request, _("This job isn't finished. Cancel it first."))
        return _back(request, job_id)
    messages.success(request, _("The job is deleted."))
    return redirect("jobs")


def _may_change(request: HttpRequest, job_id: UUID) -> bool:
    """Tell whether the reader may change the job, and tell them if not.

    Raises:
        Http404: there is none, or it isn't theirs to see.
    """
    viewer = viewer_of_request(request)
    job = visible_job(viewer, job_id)
    if job.owner_id == viewer.user_id or viewer.is_staff:
        return True
    messages.error(request, _("Only the job's owner and staff may do this."))
    return False


def _has_open_work(job_id: UUID) -> bool:
    return any(each.has_open_work(job_id) for each in subscribers())


def _waited(job: Job) -> timedelta | None:
    """Say how long a job waited for its first attempt, once due."""
    if job.started_at is None or job.attempt != 1:
        return None
    return job.started_at - max(job.created_at, job.run_at or job.created_at)


def _back(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Go back to the list where the form stood there, else to the job."""
    return HttpResponseRedirect(next_address(request)) if request.POST.get("next") else redirect("job", job_id=job_id)
