"""My jobs: the list, its filters and tabs, and its rows again for a page that is live."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from rest_framework.exceptions import ValidationError

from jobs import log
from jobs.api import listing
from jobs.kinds import all_kinds
from jobs.models import Job, Status
from jobs.pages.counts import Counts, count_jobs
from jobs.pages.reading import shown_jobs, uuid_or_none, viewer_of_request
from jobs.pages.shown import STATE_WORDS

DATES = ("createdAfter", "createdBefore")


@require_safe
@never_cache
@login_required
def jobs(request: HttpRequest) -> HttpResponse:
    """List the reader's jobs, newest first, in days."""
    viewer, now = viewer_of_request(request), timezone.now()
    cursor = log.here().as_cursor()  # taken before the list is read: what happens after it is told live
    try:
        found = listing.find_jobs(viewer, _filters(request.GET))
    except ValidationError:
        messages.error(request, _("A filter in this address can't be read. All jobs are shown instead."))
        return redirect("jobs")
    shown = shown_jobs(found.jobs, viewer, now)
    counts = count_jobs(viewer, now)
    context = {
        "counts": counts,
        "tabs": _tabs(request.GET, counts),
        "days": [(_day(day, now.date()), list(rows)) for day, rows in groupby(shown, lambda each: _date(each.job))],
        "kinds": all_kinds(),
        "filters": request.GET,
        "is_filtered": any(request.GET.get(name) for name in ("status", "kind", "tag", *DATES)),
        "is_dated": any(request.GET.get(name) for name in DATES),
        "is_first_page": "cursor" not in request.GET,
        "older": found.next_cursor and _address(request.GET, cursor=found.next_cursor),
        "newest": _address(request.GET, cursor=None),
        "cursor": cursor,
        "back": request.get_full_path(),
        "public_url": settings.PUBLIC_URL,
    }
    return render(request, "jobs.html", context)


@require_safe
@never_cache
@login_required
def job_rows(request: HttpRequest) -> HttpResponse:
    """Give rows of the list again, by the ids in `id`, with the counts: what a live page puts in place."""
    viewer, now = viewer_of_request(request), timezone.now()
    ids = [each for text in request.GET.getlist("id")[: listing.PAGE] if (each := uuid_or_none(text))]
    found = listing.with_artifacts(Job.objects.filter(viewer.visible(scope_all=False), pk__in=ids))
    counts = count_jobs(viewer, now)
    query = QueryDict(request.GET.get("query", ""))
    back = f"/?{query.urlencode()}" if query else "/"
    rows = shown_jobs(list(found), viewer, now)
    context = {"rows": rows, "counts": counts, "tabs": _tabs(query, counts), "back": back}
    return render(request, "partials/job_rows.html", context)


def _filters(query: QueryDict) -> QueryDict:
    """Keep what the list understands of the address; dates become the times that the API takes."""
    wanted = QueryDict(mutable=True)
    for name in ("status", "kind", "tag", "cursor"):
        wanted.setlist(name, [each for each in query.getlist(name) if each])
        if not wanted.getlist(name):
            del wanted[name]
    for name, later in (("createdAfter", 0), ("createdBefore", 1)):
        if text := query.get(name):
            try:
                day = date.fromisoformat(text) + timedelta(days=later)
            except (ValueError, OverflowError) as error:
                raise ValidationError({name: ["This must be a day like 2026-11-24."]}) from error
            wanted[name] = datetime.combine(day, time.min, UTC).isoformat()
    return wanted


def _tabs(query: QueryDict, counts: Counts) -> list[dict[str, Any]]:
    standing = query.get("status", "")
    statuses = (Status.RUNNING, Status.PENDING, Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    first = {"word": _("All"), "count": counts.words(), "address": _address(query, status=None, cursor=None)}
    return [
        first | {"is_current": not standing},
        *(
            {
                "word": STATE_WORDS[status.lower()],
                "icon": status.lower(),
                "count": counts.words(status),
                "address": _address(query, status=status.value, cursor=None),
                "is_current": standing == status.value,
            }
            for status in statuses
        ),
    ]


def _address(query: QueryDict, **changes: str | None) -> str:
    """Write the list's address with other values of some names; None leaves a name out."""
    changed = query.copy()
    for name, value in changes.items():
        changed.pop(name, None)
        if value is not None:
            changed[name] = value
    return f"?{changed.urlencode()}"


def _date(job: Job) -> date:
    return job.created_at.astimezone(UTC).date()


def _day(day: date, today: date) -> str:
    match (today - day).days:
        case 0:
            return _("Today")
        case 1:
            return _("Yesterday")
    return date_format(day, "l, j F" if day.year == today.year else "l, j F Y")
