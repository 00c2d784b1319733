"""The admin of this room: webhooks, endpoints, deliveries, and a job's deliveries on its page. No secret is shown."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, Prefetch, Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from jobs.admin.filters import CreatedFilter, OfferedFilter, OwnerFilter
from jobs.admin.job import show_on_job
from jobs.admin.read_only import MOST_IN_TABLE, ReadOnlyAdmin, ReadOnlyInline
from jobs.admin.wording import LONGEST_CELL, job_link, show_text, show_time
from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus, Endpoint, Webhook

SHAPES = {DeliveryStatus.PENDING: "○", DeliveryStatus.DELIVERED: "✓", DeliveryStatus.FAILED: "✕"}
OFF_BY_STAFF = "Turned off by the operator."


class DeliveryStatusFilter(OfferedFilter):
    """By where a delivery stands."""

    title = parameter_name = column = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(each.value, each.label) for each in DeliveryStatus]


class ForFilter(OfferedFilter):
    """By what asked for a delivery."""

    title = parameter_name = "for"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("callback", "A job's callbackUrl"), ("webhook", "A webhook")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter(is_callback=value == "callback")


class ActiveFilter(OfferedFilter):
    """By whether a webhook is on."""

    title, parameter_name, column = "active", "active", "is_active"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("True", "Yes"), ("False", "No")]


@admin.register(Webhook)
class WebhookAdmin(ReadOnlyAdmin):
    """Registered URLs; `notifications.change_webhook` allows to turn them off and on."""

    list_display = ("url", "owner", "is_active", "event_types", "failing_since", "disabled_reason", "created_at")
    list_filter = (ActiveFilter, OwnerFilter, CreatedFilter)
    list_select_related = ("owner",)
    fields = (
        "id",
        "url",
        "owner",
        "endpoint",
        "event_types",
        "kinds",
        "is_active",
        "disabled_reason",
        "failing_since",
        "created_at",
    )
    readonly_fields = tuple(name for name in fields if name != "is_active")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("notifications.change_webhook")

    def save_model(self, request: HttpRequest, obj: Webhook, form: ModelForm[Any], change: bool) -> None:
        """Write the switch and why; one that is turned on again starts anew."""
        if "is_active" not in form.changed_data:
            return
        obj.turn(on=obj.is_active, reason=OFF_BY_STAFF)
        obj.save(update_fields=["is_active", "disabled_reason", "failing_since"])


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    """Hosts that news is sent to, and how they fare."""

    list_display = ("host", "user", "limit", "owner", "owned_until", "open_until", "failing_since")
    list_select_related = ("user",)
    search_fields = ("host",)


class AttemptInline(ReadOnlyInline):
    """What came of each POST."""

    model = DeliveryAttempt
    fields = ("number", "when", "took", "status_code", "error_code", "error", "answer")
    ordering = ("number",)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True  # to who sees the delivery

    @admin.display(description="at")
    def when(self, attempt: DeliveryAttempt) -> str:
        return show_time(attempt.at)

    def took(self, attempt: DeliveryAttempt) -> str:
        return _milliseconds(attempt)

    def answer(self, attempt: DeliveryAttempt) -> str:
        return show_text(attempt.answer_start)


class DeliveryColumns:
    """What a delivery shows of itself, in its own list and on its job's page."""

    @admin.display(description="status")
    def state(self, delivery: Delivery) -> str:
        status = DeliveryStatus(delivery.status)
        return f"{SHAPES[status]} {status.label}"

    @admin.display(description="event")
    def event_name(self, delivery: Delivery) -> str:
        return str(delivery.event)

    @admin.display(description="URL")
    def to(self, delivery: Delivery) -> str:
        return Truncator(delivery.url).chars(LONGEST_CELL)


@admin.register(Delivery)
class DeliveryAdmin(DeliveryColumns, ReadOnlyAdmin):
    """What was to be sent, the newest first."""

    list_display = ("id", "state", "event_name", "to", "job_page", "attempts", "next_attempt_at", "created_at")
    list_filter = (DeliveryStatusFilter, ForFilter, CreatedFilter)
    list_select_related = ("event",)
    search_fields = ("id", "job")
    search_help_text = "A delivery's or a job's whole id."
    fields = (
        "id",
        "state",
        "event_name",
        "job_page",
        "to",
        "endpoint",
        "webhook",
        "is_callback",
        "attempts",
        "next_attempt_at",
        "created_at",
        "finished_at",
    )
    inlines = (AttemptInline,)

    @admin.display(description="job")
    def job_page(self, delivery: Delivery) -> str:
        return job_link(delivery.job_id)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("event").defer("event__data")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term:
            return queryset, False
        try:
            wanted = UUID(search_term)
        except ValueError:
            return queryset.none(), False
        return queryset.filter(Q(pk=wanted) | Q(job=wanted)), False


class DeliveryInline(DeliveryColumns, ReadOnlyInline):
    """A job's deliveries with their attempts, for who may view deliveries."""

    model = Delivery
    verbose_name_plural = f"deliveries (at most the newest {MOST_IN_TABLE})"
    fields = ("state", "event_name", "to", "attempts", "next_attempt_at", "tries_lines")
    ordering = ("-id",)
    show_change_link = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        tries = Prefetch("tries", DeliveryAttempt.objects.defer("answer_start").order_by("number"))
        rows = super().get_queryset(request).select_related("event").defer("event__data")
        return rows.prefetch_related(tries)

    @admin.display(description="what came of them")
    def tries_lines(self, delivery: Delivery) -> SafeString:
        lines = (
            (each.number, each.status_code or each.error_code, _milliseconds(each)) for each in delivery.tries.all()
        )
        return format_html_join("", "<div>{}. {}, {}</div>", lines)


def _milliseconds(attempt: DeliveryAttempt) -> str:
    return f"{attempt.duration_seconds * 1000:.0f} ms"


show_on_job(DeliveryInline)
