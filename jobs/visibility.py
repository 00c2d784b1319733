"""Who sees which jobs: one's own, those of one's teams (Django groups), and all for staff."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.auth import HASH_SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db.models import Q
from django.utils import timezone

from jobs.models import Token

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Somebody who reads, with what they may see, as of the last look."""

    user_id: int
    team_ids: frozenset[int]
    is_staff: bool
    token: str | None = None
    """The digest of the token that they came with; None where it was a session."""
    session: str | None = None
    """The key of the session that they came with, or in which their watch token was made."""
    job_id: UUID | None = None
    """The one job that their watch token is bound to; None where they see all that they may."""

    def may_see(self, owner_id: int, team_id: int | None, *, scope_all: bool = True) -> bool:
        """Tell whether a job of this owner and team is theirs to see.

        Args:
            scope_all: whether staff look at everybody's jobs, or at their own and their teams'.
        """
        return owner_id == self.user_id or team_id in self.team_ids or (self.is_staff and scope_all)

    def visible(self, *, scope_all: bool = True) -> Q:
        """Give the same rule as a filter on rows with `owner` and `team`."""
        if self.is_staff and scope_all:
            return Q()
        return Q(owner_id=self.user_id) | Q(team_id__in=self.team_ids)


def viewer_of(user: User, auth: Any = None, session: str | None = None) -> Viewer:
    """Look up what a signed-in user may see.

    Args:
        user: an active user.
        auth: the token that they came with, if any.
        session: the key of the session that they came with, if any.
    """
    return Viewer(
        user_id=user.pk,
        team_ids=frozenset(user.groups.values_list("pk", flat=True)),
        is_staff=user.is_staff,
        token=auth.pk if isinstance(auth, Token) else None,
        session=auth.session_id if isinstance(auth, Token) else session,
        job_id=auth.job_id if isinstance(auth, Token) else None,
    )


def look_again(viewers: Iterable[Viewer]) -> dict[Viewer, Viewer | None]:
    """Look again what viewers may see, in a few queries for them all; None where the credential is dead.

    A session is dead once it is signed out, run out, or made with a password that was changed since.
    """
    asked = set(viewers)
    users = {
        user.pk: user
        for user in get_user_model()
        .objects.filter(pk__in={each.user_id for each in asked}, is_active=True)
        .prefetch_related("groups")
    }
    tokens = Token.objects.filter(pk__in={each.token for each in asked if each.token})
    unexpired = tokens.filter(Q(expiry__isnull=True) | Q(expiry__gt=timezone.now())).only("pk", "scopes")
    alive = {token.pk for token in unexpired if token.may_watch}
    stamps = session_stamps({each.session for each in asked if each.session})
    answers: dict[Viewer, Viewer | None] = {}
    for each in asked:
        user = users.get(each.user_id)
        is_dead = user is None or (each.token is not None and each.token not in alive)
        if user is None or is_dead or (each.session and stamps.get(each.session) != user.get_session_auth_hash()):
            answers[each] = None
        else:
            teams = frozenset(group.pk for group in user.groups.all())
            answers[each] = replace(each, team_ids=teams, is_staff=user.is_staff)
    return answers


def session_stamps(keys: set[str]) -> dict[str, str]:
    """Read the stamps that tie sessions to their users' passwords; those that have ended are left out."""
    rows = Session.objects.filter(pk__in=keys, expire_date__gt=timezone.now())
    return {row.pk: str(row.get_decoded().get(HASH_SESSION_KEY, "")) for row in rows}


def is_token_alive(token: Token, now: datetime) -> bool:
    """Tell whether a token, its user, and the session that it was made in may still be used."""
    if not token.user.is_active or (token.expiry is not None and token.expiry <= now):
        return False
    session: str | None = token.session_id
    return session is None or session_stamps({session}).get(session) == token.user.get_session_auth_hash()
