"""Bearer tokens: made once, shown once, kept as a digest."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models import Q
from django.utils import timezone
from knox.crypto import hash_token

from jobs.models import Token
from jobs.visibility import is_token_alive

if TYPE_CHECKING:
    from django.contrib.auth.models import User

USE_NOTED_EVERY = timedelta(minutes=1)
LONGEST_TOKEN = 200


def create_token(user: User, name: str) -> str:
    """Make a token for a user.

    Args:
        user: whose.
        name: where it is used, for people.

    Returns:
        The token itself; it can't be read again.
    """
    _, token = Token.objects.create(user=user, name=name)
    return str(token)


def find_token(text: str) -> Token | None:
    """Find the token with this text and its user, in one query; None where there is none, or not any more.

    Its last use is noted, at most once a minute.
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
