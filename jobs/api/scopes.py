"""What each endpoint asks of a token, and the answer to one that may not do it (RFC 6750 §3.1).

Reading asks for `read`, all else for `manage`; a view whose methods ask for something else says so in `scopes`. A
session's user may do whatever the user may. What job somebody sees is another question (`visibility`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.http import Http404
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from jobs.api.authentication import UrlTokenAuthentication
from jobs.models import Scope, Token

if TYPE_CHECKING:
    from rest_framework.views import APIView

    AnyView = APIView
else:
    AnyView = object  # DRF's views import this module, by DEFAULT_PERMISSION_CLASSES


class InsufficientScope(PermissionDenied):
    """The token is good, and isn't meant for this."""

    def __init__(self, needed: Scope, detail: str) -> None:
        super().__init__(detail)
        self.challenge = f'Bearer error="insufficient_scope", scope="{needed}"'


class Watchable(AnyView):
    """A view whose reading is open to watch tokens, also in the URL."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Take a token of the URL too, where something is read."""
        usual: list[BaseAuthentication] = super().get_authenticators()
        is_reading = self.request is not None and self.request.method in ("GET", "HEAD")
        return [*usual, UrlTokenAuthentication()] if is_reading else usual


class HasScope(BasePermission):
    """Lets nobody in whose token isn't meant for what they ask."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell whether the token may do this.

        Raises:
            InsufficientScope: it may not.
            Http404: it is bound to another job.
        """
        token = request.auth
        if not isinstance(token, Token):
            return True
        needed = scope_of(view, request.method or "GET")
        if token.is_watch_token:
            check_watch_token(token, request, view, needed)
        elif not token.may(needed):
            raise InsufficientScope(needed, f"This token may not do this; it needs the scope {needed}.")
        return True


def scope_of(view: APIView, method: str) -> Scope:
    """Say what a view's method asks for."""
    declared: Mapping[str, Scope] = getattr(view, "scopes", {})
    return declared.get(method, Scope.READ if method in SAFE_METHODS else Scope.MANAGE)


def check_watch_token(token: Token, request: Request, view: APIView, needed: Scope) -> None:
    """Let a watch token read the jobs that it sees, and nothing else.

    Raises:
        InsufficientScope: it may not.
        Http404: it is bound to another job.
    """
    if not isinstance(view, Watchable) or request.method not in ("GET", "HEAD"):
        raise InsufficientScope(needed, "A watch token only reads a job, its status, and events.")
    if token.job_id is None:
        return
    asked = view.kwargs.get("job_id")
    if asked is None:
        raise InsufficientScope(needed, "This watch token is bound to one job; read that job's events.")
    if asked != token.job_id:
        raise Http404
