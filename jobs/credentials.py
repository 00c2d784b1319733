"""Bearer tokens: made once, shown once, kept as a digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from knox.crypto import hash_token
from knox.models import get_digest_token
from knox.settings import CONSTANTS

from jobs.models import Scope, Token
from jobs.visibility import is_token_alive

if TYPE_CHECKING:
    from django.contrib.auth.models import User

USE_NOTED_EVERY = timedelta(minutes=1)
SHOWN_AFTER_EXPIRY = timedelta(days=30)
LONGEST_TOKEN = 200


@dataclass(frozen=True, kw_only=True)
class MadeToken:
    """A token right after it was made: the only time that its text is known."""

    text: str
    row: Token


def create_token(user: User, name: str) -> str:
    """Make a token for a user that is good for everything and doesn't expire.

    Args:
        user: whose.
        name: where it is used, for people.

    Returns:
        The token itself; it can't be read again.
    """
    return make_token(user, name).text


def make_token(user: User, name: str, *, scopes: Sequence[Scope] = (), expires_at: datetime | None = None) -> MadeToken:
    """Make a token for a user.

    Args:
        user: whose.
        name: where it is used, for people.
        scopes: what it may be used for; none for everything.
        expires_at: None for never.
    """
    return _create(user=user, expiry=expires_at, name=name, scopes=[each.value for each in scopes])


def make_watch_token(
    user: User, *, expires_in: timedelta, job_id: UUID | None, parent: Token | None, session: str | None
) -> MadeToken:
    """Make a token that only reads, for a short time, and may stand in a URL.

    It dies with what it was made with: its row goes when the token or session goes, and it never outlives the token.

    Args:
        user: whose.
        expires_in: how long it is good.
        job_id: the one job that it sees; None for all that the user sees.
        parent: the token that it is made with, if any.
        session: the key of the session that it is made in, if there is no such token.
    """
    expiry = timezone.now() + expires_in
    return _create(
        user=user,
        expiry=min(expiry, parent.expiry) if parent and parent.expiry else expiry,
        name="watch token",
        scopes=[Scope.WATCH.value],
        job_id=job_id,
        parent=parent,
        session_id=None if parent else session,
    )


def _create(**values: Any) -> MadeToken:
    """Make a row as knox's manager does, which takes no moment at which a token expires."""
    digest, text = get_digest_token()
    row: Token = Token(digest=digest, token_key=text[: CONSTANTS.TOKEN_KEY_LENGTH], **values)
    row.save(force_insert=True)
    return MadeToken(text=text, row=row)


@sensitive_variables("text")
def find_token(text: str) -> Token | None:
    """Find the token with this text and its user, in one query; None where there is none, or not any more.

    Its last use is noted, at most once a minute. A watch token that was made within a session costs a second query.
    """
    if not text or len(text) > LONGEST_TOKEN or not text.isascii():
        return None
    token: Token | None = Token.objects.select_related("user").filter(pk=hash_token(text)).first()
    now = timezone.now()
    if token is None or not is_token_alive(token, now):
        return None
    if token.last_used_at is None or now - token.last_used_at > USE_NOTED_EVERY:
        unnoted = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
        Token.objects.filter(unnoted, pk=token.pk).update(last_used_at=now)
    return token


def remove_expired_tokens(now: datetime, most: int) -> int:
    """Remove tokens that have expired: watch tokens at once, others after a month in which their users see why.

    Index: token_expiry.

    Args:
        most: how many at most.

    Returns:
        How many were removed.
    """
    is_over = Q(expiry__lt=now, scopes=[Scope.WATCH.value]) | Q(expiry__lt=now - SHOWN_AFTER_EXPIRY)
    over = Token.objects.filter(is_over, expiry__lt=now).order_by("expiry").values_list("pk", flat=True)[:most]
    return int(Token.objects.filter(pk__in=list(over)).delete()[0])
