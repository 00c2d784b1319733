"""The files that came with submissions."""

from __future__ import annotations

from django.contrib import admin
from django.template.defaultfilters import filesizeformat

from jobs.admin.filters import CreatedFilter, OwnerFilter
from jobs.admin.read_only import ReadOnlyAdmin
from jobs.models import Upload


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    """What was sent, by whom; the file itself is its jobs' and isn't served."""

    list_display = ("name", "owner", "bytes", "created_at")
    list_filter = (OwnerFilter, CreatedFilter)
    list_select_related = ("owner",)
    fields = ("id", "name", "owner", "bytes", "sha256", "created_at")

    @admin.display(description="size")
    def bytes(self, upload: Upload) -> str:
        return filesizeformat(upload.size)
