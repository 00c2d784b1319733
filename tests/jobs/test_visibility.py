"""What watchers may see is looked at again, and dead credentials are found."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from jobs import credentials
from jobs.models import Token
from jobs.visibility import Viewer, look_again, viewer_of
from tests.factories import new_user

pytestmark = pytest.mark.django_db


def session_viewer(client: Client, user: object) -> Viewer:
    client.force_login(user)  # type: ignore[arg-type]
    return viewer_of(user, session=client.session.session_key)  # type: ignore[arg-type]


def test_a_viewer_whose_teams_changed_sees_what_they_see_now() -> None:
    user = new_user()
    viewer = viewer_of(user)
    team = Group.objects.create(name="desk")
    user.groups.add(team)
    assert look_again([viewer])[viewer] == viewer_of(user)


def test_a_revoked_token_is_dead() -> None:
    user = new_user()
    token = credentials.find_token(credentials.create_token(user, "one"))
    viewer = viewer_of(user, token)
    assert look_again([viewer])[viewer] == viewer
    Token.objects.all().delete()
    assert look_again([viewer])[viewer] is None


def test_a_token_that_may_no_longer_read_is_dead() -> None:
    user = new_user()
    token = credentials.find_token(credentials.create_token(user, "one"))
    viewer = viewer_of(user, token)
    for scopes, is_alive in [([], True), (["read"], True), (["watch"], True), (["submit"], False)]:
        Token.objects.update(scopes=scopes)
        assert (look_again([viewer])[viewer] is not None) == is_alive


def test_a_deactivated_user_is_dead() -> None:
    user = new_user()
    viewer = viewer_of(user)
    user.is_active = False
    user.save()
    assert look_again([viewer])[viewer] is None


def test_a_session_is_dead_after_signing_out(client: Client) -> None:
    user = new_user()
    viewer = session_viewer(client, user)
    assert look_again([viewer])[viewer] == viewer
    client.logout()
    assert look_again([viewer])[viewer] is None


def test_a_session_is_dead_after_its_password_was_changed(client: Client) -> None:
    user = new_user()
    viewer = session_viewer(client, user)
    user.set_password("another one")
    user.save()
    assert look_again([viewer])[viewer] is None
