"""Bearer tokens: made, seen and revoked. A new one is shown once, in the answer to the form.

A token's primary key is its digest, which no page, URL or log entry of the admin may carry: here a token goes by
`token_key`, the start of its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs.admin.read_only import ReadOnlyAdmin
from jobs.admin.token_form import TokenForm
from jobs.models import Scope, Token

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@admin.register(Token)
class TokenAdmin(ReadOnlyAdmin):
    """Whose tokens there are, when they were last used, and an end to them.

    `jobs.add_token` makes tokens for oneself; superusers make them for others too.
    """

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

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.add_token")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Token]:
        """Leave watch tokens out: there may be many, and they are gone within a day."""
        tokens: QuerySet[Token] = super().get_queryset(request)
        return tokens.exclude(scopes=[Scope.WATCH.value])

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Make a token, and show it in this one answer."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        asker = cast("User", request.user)  # a permission has only who is signed in
        form = TokenForm(request.POST if request.method == "POST" else None, asker=asker)
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Make a token", "form": form}
        if not form.is_valid():
            return TemplateResponse(request, "admin/jobs/token/make.html", context)
        with transaction.atomic():
            made = form.make()
            LogEntry.objects.create(action_flag=ADDITION, **self._entry(request, made.row))
        context |= {"made": made, "title": "The new token"}
        return TemplateResponse(
            request, "admin/jobs/token/made.html", context, headers={"Cache-Control": "private, no-store"}
        )

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
            LogEntry(action_flag=DELETION, **self._entry(request, token)) for token in queryset
        )

    def _entry(self, request: HttpRequest, token: Token) -> dict[str, Any]:
        return {
            "user_id": cast(int, request.user.pk),  # whoever makes or revokes is signed in
            "content_type": get_content_type_for_model(token),
            "object_id": token.token_key,
            "object_repr": str(token)[:200],
        }
