"""Starting a job by the form of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast
from uuid import uuid4

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from jobs.api import submission
from jobs.api.errors import problem_response
from jobs.api.parsers import check_storable
from jobs.failures import KeyReused, UnknownKind
from jobs.kinds import Kind, all_kinds, get_kind
from jobs.pages.counts import count_jobs
from jobs.pages.reading import user_of, uuid_or_none, viewer_of_request, visible_job
from jobs.pages.start_form import FILE_NAME, PARAMS, StartForm, chosen_files, form_of, values_of_params

FIRST_KIND = "csv.report"


@never_cache
@login_required
def start(request: HttpRequest) -> HttpResponse:
    """Show the form of a kind, and start the job that it describes."""
    if request.method == "POST":
        return _submit(request)
    like_id = uuid_or_none(request.GET.get("from", ""))
    like = visible_job(viewer_of_request(request), like_id) if like_id else None
    name = like.kind if like else request.GET.get("kind") or FIRST_KIND
    values = values_of_params(like.params) | {"tags": ", ".join(like.tags)} if like else {}
    return _start_page(request, _form(request, _kind(name), values, str(uuid4())))


@require_POST
@login_required
def start_curl(request: HttpRequest) -> HttpResponse:
    """Write what stands in the form as a command."""
    form = _form_sent(request)
    sent = request.POST.dict()
    names = {name.removeprefix(FILE_NAME): value for name, value in sent.items() if name.startswith(FILE_NAME)}
    return HttpResponse(form.curl(names), content_type="text/plain; charset=utf-8")


def _submit(request: HttpRequest) -> HttpResponse:
    form = _form_sent(request)
    files = chosen_files(form, cast("Mapping[str, Any]", request.FILES))
    try:
        body = form.submission()
        check_storable(body)
        accepted = submission.accept_submission(user_of(request).pk, body, files, form.idempotency_key)
    except KeyReused:
        form = _form(request, form.kind, request.POST.dict(), str(uuid4()))
        again = _("This form started a job already, with other values. Press the button again to start another.")
        return _start_page(request, form.with_faults([], again), HTTPStatus.CONFLICT)
    except Exception as error:
        answer = problem_response(error, {})
        if answer is None:
            raise
        form = form.with_faults(answer.data["errors"], answer.data["detail"])
        return _start_page(request, form, HTTPStatus(answer.status_code))
    return redirect("job", job_id=accepted.job.pk)


def _form_sent(request: HttpRequest) -> StartForm:
    values = request.POST.dict()
    return _form(request, _kind(values.get("kind", "")), values, values.get("idempotencyKey") or str(uuid4()))


def _form(request: HttpRequest, kind: Kind, values: Mapping[str, str], key: str) -> StartForm:
    teams = list(user_of(request).groups.order_by("name").values_list("name", flat=True))
    return form_of(kind, values, teams=teams, idempotency_key=key)


def _start_page(request: HttpRequest, form: StartForm, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    context = {
        "counts": count_jobs(viewer_of_request(request), timezone.now()),
        "form": form,
        "kinds": all_kinds(),
        "curl": form.curl({}),
        "file_name": FILE_NAME,
        "params": PARAMS,
    }
    return render(request, "start.html", context, status=status)


def _kind(name: str) -> Kind:
    try:
        return get_kind(name)
    except UnknownKind as error:
        raise Http404 from error
