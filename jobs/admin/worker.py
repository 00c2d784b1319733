"""The worker processes, the last seen first."""

from __future__ import annotations

from django.contrib import admin

from jobs.admin.read_only import ReadOnlyAdmin
from jobs.models import Worker


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """Who works, on what, and when it was last heard of."""

    list_display = ("__str__", "queues", "slots", "started_at", "seen_at")
    ordering = ("-seen_at", "-pk")
