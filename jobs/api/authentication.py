"""Who asks: a bearer token, or the session of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.views.decorators.debug import sensitive_variables
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from jobs.api.url_tokens import token_of_url
from jobs.credentials import find_token
from jobs.models import Token

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def user_of(request: Request) -> User:
    """Give the signed-in user; the views' permission classes let nobody else in."""
    return cast("User", request.user)


class BearerAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer <token>` (RFC 6750 §2.1)."""

    @sensitive_variables("text", "token")
    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        """Find the token's user.

        Raises:
            AuthenticationFailed: the header is malformed or the token isn't good.
        """
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = find_token(text.strip())
        if token is None:
            raise exceptions.AuthenticationFailed("This token is unknown, revoked or expired.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class UrlTokenAuthentication(authentication.BaseAuthentication):
    """`?token=`, for watch tokens alone: native `EventSource` and `WebSocket` send no headers.

    Any other token is refused there, because URLs end in the logs of proxies and in histories.
    """

    @sensitive_variables("text", "token")
    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        """Find the token's user.

        Raises:
            AuthenticationFailed: the token isn't good, or is no watch token.
        """
        text = token_of_url(request._request)
        if text is None:
            return None
        token = find_token(text)
        if token is None or not token.is_watch_token:
            raise exceptions.AuthenticationFailed("This is no watch token, or it has expired.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionAuthentication(authentication.SessionAuthentication):
    """The session cookie of Kabar's own pages; what changes something needs Django's CSRF token too."""


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
    """How the OpenAPI document names the bearer token."""

    target_class = "jobs.api.authentication.BearerAuthentication"
    match_subclasses = True
    name = "bearer"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class UrlTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
    """How the OpenAPI document names the watch token in the URL."""

    target_class = "jobs.api.authentication.UrlTokenAuthentication"
    name = "watchToken"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "query", "name": "token"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped in drf-spectacular
    """How the OpenAPI document names the session cookie."""

    target_class = "jobs.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}
