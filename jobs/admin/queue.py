"""Paused queues: paused and resumed as by `manage.py pause_queue` and `resume_queue`, but with who did it.

A row is a queue that is paused, so to add one is to pause, and to delete one is to resume.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest

from jobs import queues
from jobs.admin.read_only import ReadOnlyAdmin
from jobs.kinds import all_kinds
from jobs.models import PausedQueue


@admin.register(PausedQueue)
class PausedQueueAdmin(ReadOnlyAdmin):
    """Queues of which nothing is claimed; the permission to add one is that to pause, to delete one that to resume."""

    list_display = ("name", "paused_at", "paused_by")
    ordering = ("name",)
    actions = ("delete_selected",)

    # --- Pause

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.add_pausedqueue")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        return super().add_view(request, form_url, {"title": "Pause a queue", **(extra_context or {})})

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return ("name", "paused_at", "paused_by") if obj else ("name",)

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **_options: Any) -> forms.Field:
        """Offer the queues of the kinds that are declared: nobody can misspell one."""
        paused = set(PausedQueue.objects.values_list("name", flat=True))
        names = sorted({kind.queue for kind in all_kinds()} - paused)
        text = "Workers claim nothing more of it. What runs goes on, and what comes waits in line."
        return forms.ChoiceField(label="Queue", choices=[(name, name) for name in names], help_text=text)

    def save_model(self, request: HttpRequest, obj: PausedQueue, form: Any, change: bool) -> None:
        queues.pause(obj.name, by=request.user.get_username())

    # --- Resume

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("jobs.delete_pausedqueue")

    @admin.action(description="Resume selected queues", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[PausedQueue]) -> None:
        """Stand in for Django's own action, which would ask whether to delete something."""
        chosen = list(queryset)
        self.log_deletions(request, queryset)
        for each in chosen:
            queues.resume(each.name)
        self.message_user(request, f"Resumed: {', '.join(map(str, chosen))}.", messages.SUCCESS)

    def get_deleted_objects(self, objs: Iterable[PausedQueue], request: HttpRequest) -> Any:
        resumed = [f"{queue}, whose jobs will be claimed again" for queue in objs]
        return resumed, {self.opts.verbose_name_plural: len(resumed)}, set(), []

    def delete_model(self, request: HttpRequest, obj: PausedQueue) -> None:
        queues.resume(obj.name)
