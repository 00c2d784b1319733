"""Bearer tokens: seen and revoked. They are made by `manage.py create_token`, which shows them once.

A token's primary key is its digest, which no page, URL or log entry of the admin may carry: here a token goes by
`token_key`, the start of its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.auth import get_user_model
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs.admin.read_only import ReadOnlyAdmin
from jobs.models import Token


@admin.register(Token)
class TokenAdmin(ReadOnlyAdmin):
    """Whose tokens there are, when they were last used, and an end to them."""

    list_display = ("label", "start", "user", "scopes", "created", "last_used_at", "expiry")
    list_display_links = None
    list_select_related = ("user",)
    search_fields = ("name", f"user__{get_user_model().USERNAME_FIELD}")
    ordering = ("-created", "-pk")
    actions = None  # their checkboxes would carry the digests

    @admin.display(description="name")
    def label(self, token: Token) -> str:
        return token.name or "-"

    @admin.display(description="begins with")
    def start(self, token: Token) -> str:
        return f"{token.token_key}…"

    @admin.display(description="revoke")
    def revoke(self, token: Token) -> SafeString:
        url = reverse("admin:jobs_token_delete", args=[token.token_key])
        return format_html('<a class="deletelink" href="{}">Revoke</a>', url)

    def get_list_display(self, request: HttpRequest) -> Any:
        return (*self.list_display, "revoke") if self.has_delete_permission(request) else self.list_display

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("jobs.delete_token")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Token | None:
        found: Token | None = None
        if object_id.isalnum():
            found = self.get_queryset(request).filter(token_key=object_id).first()
        return found

    def change_view(self, request: HttpRequest, object_id: str, *_args: Any, **_options: Any) -> HttpResponse:
        return redirect("admin:jobs_token_changelist")

    def history_view(self, request: HttpRequest, object_id: str, *_args: Any, **_options: Any) -> HttpResponse:
        return redirect("admin:jobs_token_changelist")

    def get_deleted_objects(self, objs: Iterable[Token], request: HttpRequest) -> Any:
        tokens = [f"{token} ({token.token_key}…)" for token in objs]
        return tokens, {self.opts.verbose_name_plural: len(tokens)}, set(), []

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Token]) -> Any:
        return LogEntry.objects.bulk_create(
            LogEntry(
                user_id=cast(int, request.user.pk),  # whoever revokes is signed in
                content_type=get_content_type_for_model(token),
                object_id=token.token_key,
                object_repr=str(token)[:200],
                action_flag=DELETION,
            )
            for token in queryset
        )
