"""The tables on a job's page: its events and its files."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import F, Model, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from jobs import artifact_urls
from jobs.admin.read_only import MOST_IN_TABLE, ReadOnlyInline
from jobs.admin.wording import LONGEST_CELL, show_error, show_time
from jobs.models import Artifact, Event, Status


class EventInline(ReadOnlyInline):
    """What happened, the newest first. Index: event_job_sequence."""

    model = Event
    verbose_name_plural = f"events (at most the newest {MOST_IN_TABLE})"
    fields = ("sequence", "type", "when", "says")
    ordering = ("-sequence",)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True  # to who sees the job

    @admin.display(description="at")
    def when(self, event: Event) -> str:
        return show_time(event.at)

    def says(self, event: Event) -> str:
        line, error = event.data.get("log"), event.data.get("error")
        if line:
            return Truncator(f"{line.get('level')}: {line.get('message')}").chars(LONGEST_CELL)
        if event.data.get("by"):
            return f"by {event.data['by']}"
        return show_error(error)


class ArtifactInline(ReadOnlyInline):
    """Files that attempts attached; only a completed job's are served."""

    model = Artifact
    fields = ("file_link", "content_type", "bytes", "sha256", "attempt", "is_main")
    ordering = ("id",)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True  # to who sees the job

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        files: QuerySet[Any] = super().get_queryset(request).annotate(job_status=F("job__status"))
        return files

    @admin.display(description="file")
    def file_link(self, artifact: Artifact) -> SafeString | str:
        if getattr(artifact, "job_status", None) != Status.COMPLETED:
            return artifact.name
        return format_html('<a href="{}">{}</a>', artifact_urls.signed_url(artifact), artifact.name)

    @admin.display(description="size")
    def bytes(self, artifact: Artifact) -> str:
        return filesizeformat(artifact.size)
