"""A status poll in one statement for the ordinary view: the token, its user and the job come together.

It is a shortcut only. Wherever the token is anything but plainly good, its use is to be noted, or it is a watch token,
the ordinary authentication decides and the view reads the job by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from knox.crypto import hash_token
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from jobs.api.authentication import BearerAuthentication
from jobs.credentials import LONGEST_TOKEN, USE_NOTED_EVERY
from jobs.models import Job, Token
from jobs.sql import polls
from jobs.sql.polls import Look
from jobs.visibility import is_token_alive

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class OneLookAuthentication(BearerAuthentication):
    """A bearer token, found together with the job that the path names."""

    @sensitive_variables("text")
    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        """Find the token's user, and keep the job for `job_looked_at`.

        Raises:
            AuthenticationFailed: the header is malformed or the token isn't good.
        """
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.isalnum() or len(text) > LONGEST_TOKEN:
            return super().authenticate(request)
        look = polls.look(hash_token(text), request.parser_context["kwargs"]["job_id"])
        if look is None or not is_plainly_good(look.token):
            return super().authenticate(request)
        request._request.kabar_look = look  # type: ignore[attr-defined]
        return look.token.user, look.token


def with_one_look(usual: list[BaseAuthentication]) -> list[BaseAuthentication]:
    """Replace the bearer authentication by the one that looks at the job too."""
    return [OneLookAuthentication() if type(each) is BearerAuthentication else each for each in usual]


def job_looked_at(request: Request, job_id: UUID) -> Job | None:
    """Give the job that came with the token, with its files; None where none did, whatever the reason."""
    look: Look | None = getattr(request._request, "kabar_look", None)
    return look.job if look and look.job and look.job.id == job_id else None


def is_plainly_good(token: Token) -> bool:
    """Tell whether a token may be used, has its use noted, and sees all that its user sees."""
    now = timezone.now()
    is_noted = token.last_used_at is not None and now - token.last_used_at <= USE_NOTED_EVERY
    return is_noted and not token.is_watch_token and is_token_alive(token, now)
