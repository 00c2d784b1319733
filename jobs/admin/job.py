"""Jobs in the admin: found, read, and cancelled, retried or removed through the functions that all doors call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs import lifecycle, retention
from jobs.admin.filters import CreatedFilter, KindFilter, OwnerFilter, StatusFilter
from jobs.admin.job_tables import ArtifactInline, EventInline
from jobs.admin.read_only import ReadOnlyAdmin, ReadOnlyInline
from jobs.admin.wording import job_link, show_error, show_json, show_span, show_text, show_time
from jobs.failures import UniqueKeyTaken, WrongState
from jobs.models import FINAL, Job, Status

if TYPE_CHECKING:
    Act = Callable[[UUID, str], tuple[Job, str]]

MOST_AT_ONCE = 500
"""How many jobs one action takes; more would outlast the request."""
MOST_REFUSALS = 10
"""How many refusals one action explains."""
UNLISTED = ("params", "result", "traceback", "metadata", "tags", "progress", "callback_events", "callback_url")
"""Columns that may be large and that the list doesn't show."""
SHAPES = {
    Status.PENDING: "○",
    Status.RUNNING: "◐",
    Status.COMPLETED: "✓",
    Status.FAILED: "✕",
    Status.CANCELLED: "⊘",
}


class JobChangeList(ChangeList):
    """The list, without what it doesn't show."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: list[str | None] | None = None) -> QuerySet[Any]:
        jobs: QuerySet[Any] = super().get_queryset(request, exclude_parameters).defer(*UNLISTED)
        return jobs


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs; `jobs.change_job` allows to cancel and retry, `jobs.delete_job` to remove what is finished."""

    list_display = ("id", "state", "kind", "owner_link", "created", "run_time", "attempt", "error_code")
    list_filter = (StatusFilter, KindFilter, OwnerFilter, CreatedFilter)
    list_select_related = ("owner",)
    search_fields = ("id", "unique_key")
    search_help_text = "A job's whole id, or a whole unique key."
    actions = ("cancel_selected", "retry_selected", "delete_selected")
    save_on_top = True
    inlines = [EventInline, ArtifactInline]
    fieldsets = (
        (None, {"fields": ("id", "state", "kind", "owner", "team", "tries", "run_time", "progress_json")}),
        ("What came of it", {"fields": ("error_line", "traceback_text", "result_json")}),
        (
            "What was asked for",
            {
                "fields": (
                    ("params_json", "metadata_json"),
                    ("queue", "priority", "timeout_seconds"),
                    ("start_within_seconds", "deadline_seconds", "unique_key"),
                    ("tags", "batch_text", "retried_from_link"),
                    ("callback_url", "callback_events"),
                )
            },
        ),
        (
            "Times",
            {
                "fields": (
                    ("created_at", "run_at", "ready_at"),
                    ("started_at", "finished_at", "expires_at"),
                    ("start_by", "finish_by", "cancel_requested_at"),
                )
            },
        ),
        (
            "Who has it",
            {"fields": (("worker", "lease_until", "fence"), ("failures", "crashes"), ("sequence", "version"))},
        ),
    )

    # --- Columns and fields

    @admin.display(description="status")
    def state(self, job: Job) -> SafeString:
        status = Status(job.status)
        word = "Retrying" if status == Status.PENDING and job.attempt else status.label
        if status == Status.RUNNING and job.cancel_requested_at:
            word = "Running, to be cancelled"
        return format_html('<span aria-hidden="true">{}</span> {}', SHAPES[status], word)

    @admin.display(description="owner")
    def owner_link(self, job: Job) -> SafeString:
        return format_html('<a href="?owner={}">{}</a>', job.owner_id, job.owner)

    def created(self, job: Job) -> str:
        return show_time(job.created_at)

    @admin.display(description="run time")
    def run_time(self, job: Job) -> str:
        if job.started_at is None or job.status == Status.PENDING:
            return ""
        return show_span((job.finished_at or timezone.now()) - job.started_at)

    @admin.display(description="error")
    def error_code(self, job: Job) -> str:
        return str((job.error or {}).get("code", ""))

    @admin.display(description="attempt")
    def tries(self, job: Job) -> str:
        return f"{job.attempt} of {job.max_attempts}"

    @admin.display(description="error")
    def error_line(self, job: Job) -> str:
        return show_error(job.error) or "-"

    @admin.display(description="traceback")
    def traceback_text(self, job: Job) -> str:
        return show_text(job.traceback)

    @admin.display(description="progress")
    def progress_json(self, job: Job) -> str:
        return show_json(job.progress)

    @admin.display(description="params")
    def params_json(self, job: Job) -> str:
        return show_json(job.params)

    @admin.display(description="metadata")
    def metadata_json(self, job: Job) -> str:
        return show_json(job.metadata)

    @admin.display(description="result")
    def result_json(self, job: Job) -> str:
        return show_json(job.result)

    @admin.display(description="batch")
    def batch_text(self, job: Job) -> str:
        return str(job.batch_id or "-")

    @admin.display(description="retried from")
    def retried_from_link(self, job: Job) -> str:
        return job_link(job.retried_from_id)

    # --- Finding

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term)), False
        except ValueError:
            return queryset.filter(unique_key=search_term), False

    def view_on_site(self, job: Job) -> str:
        return reverse("job", args=[job.pk])

    # --- Cancel and retry

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_job")

    @admin.action(description="Cancel selected jobs", permissions=["act"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._act(request, self._first_ids(request, queryset), _cancel)

    @admin.action(description="Retry selected jobs", permissions=["act"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._act(request, self._first_ids(request, queryset), _retry)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<uuid:job_id>/cancel/", view(self.cancel_view), name="jobs_job_cancel"),
            path("<uuid:job_id>/retry/", view(self.retry_view), name="jobs_job_retry"),
            *super().get_urls(),
        ]

    def cancel_view(self, request: HttpRequest, job_id: UUID) -> HttpResponse:
        return self._act_on_one(request, job_id, _cancel)

    def retry_view(self, request: HttpRequest, job_id: UUID) -> HttpResponse:
        return self._act_on_one(request, job_id, _retry)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> TemplateResponse:
        job: Job = context["original"]
        may_act = self.has_act_permission(request)
        context["may_cancel"] = may_act and not job.is_final and job.cancel_requested_at is None
        context["may_retry"] = may_act and job.status in lifecycle.TRANSITIONS["reopen"][0]
        return super().render_change_form(request, context, *args, **kwargs)  # type: ignore[return-value]

    def _act_on_one(self, request: HttpRequest, job_id: UUID, act: Act) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_act_permission(request):
            raise PermissionDenied
        self._act(request, [job_id], act)
        return redirect("admin:jobs_job_change", job_id)

    def _act(self, request: HttpRequest, job_ids: Iterable[UUID], act: Act) -> None:
        done: Counter[str] = Counter()
        refusals: list[str] = []
        for job_id in job_ids:
            try:
                job, what = act(job_id, request.user.get_username())
            except Job.DoesNotExist:
                refusals.append(f"{job_id}: there is no such job any more.")
            except WrongState as refused:
                refusals.append(f"{refused.job}: {refused}")
            except UniqueKeyTaken as refused:
                refusals.append(f"{job_id}: {refused} It is {refused.standing.pk}.")
            else:
                self.log_change(request, job, f"{what}.")
                done[what] += 1
        for what, count in done.items():
            self.message_user(request, f"{what}: {count} job{'' if count == 1 else 's'}.", messages.SUCCESS)
        for refusal in refusals[:MOST_REFUSALS]:
            self.message_user(request, refusal, messages.ERROR)
        if len(refusals) > MOST_REFUSALS:
            self.message_user(request, f"{len(refusals) - MOST_REFUSALS} more were refused.", messages.ERROR)

    def _first_ids(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[UUID]:
        ids = list(queryset.values_list("pk", flat=True)[: MOST_AT_ONCE + 1])
        if len(ids) > MOST_AT_ONCE:
            self.message_user(
                request, f"Only the first {MOST_AT_ONCE} were taken; do it again for more.", messages.WARNING
            )
        return ids[:MOST_AT_ONCE]

    # --- Delete: by `retention`, because a job's files and what subscribers keep go with it

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        is_removable = not isinstance(obj, Job) or obj.is_final
        return is_removable and request.user.has_perm("jobs.delete_job")

    @admin.action(description="Delete selected jobs", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        chosen = Job.objects.filter(pk__in=self._first_ids(request, queryset))
        finished = chosen.filter(status__in=FINAL).defer(*UNLISTED).order_by("-pk")
        if left := chosen.count() - len(finished):
            text = f"{left} not finished and left alone; cancel before you delete."
            self.message_user(request, text, messages.ERROR)
        return delete_selected(self, request, finished) if finished else None

    def get_deleted_objects(self, objs: Iterable[Job], request: HttpRequest) -> Any:
        jobs = [f"{job}, with its events, files and deliveries" for job in objs]
        return jobs, {self.opts.verbose_name_plural: len(jobs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        if not retention.remove([obj.pk]):
            raise PermissionDenied("The job was retried meanwhile.")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        retention.remove([job.pk for job in queryset])


def show_on_job(inline: type[ReadOnlyInline]) -> None:
    """Add a table to the job's page: for rooms that know this one, which it doesn't know."""
    JobAdmin.inlines.append(inline)


def _cancel(job_id: UUID, by: str) -> tuple[Job, str]:
    job = lifecycle.cancel(job_id)
    return job, "Cancelled" if job.is_final else "Asked to stop"


def _retry(job_id: UUID, by: str) -> tuple[Job, str]:
    return lifecycle.reopen(job_id, by), "Queued again"
