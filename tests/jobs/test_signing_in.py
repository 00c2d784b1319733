"""Signing in: guessing is slowed down, at the pages' door and at the admin's, and nobody keeps another one out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from django.test import Client, RequestFactory

from jobs import tally
from jobs.pages import signing_in
from jobs.pages.signing_in import (
    FREE_TRIES,
    FREE_TRIES_OF_ADDRESS,
    GUESSED_FAILURES,
    LONGEST_PAUSE_SECONDS,
    Try,
    address_of,
    pause_after,
)
from tests.factories import new_user
from tests.jobs.counting import own_counts, without_redis

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.test.client import _MonkeyPatchedWSGIResponse as Response
    from pytest_django import Settings

__all__ = ["own_counts"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_counts")]

PASSWORD = "correct horse battery staple"
DOORS = ("/sign-in", "/admin/login/")


@pytest.fixture(autouse=True)
def quick_passwords(settings: Settings) -> None:
    """Hash at once: a good hash takes half a second, on purpose."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user(quick_passwords: None) -> User:
    return new_user(password=PASSWORD, is_staff=True)


def sign_in(
    name: str, password: str, address: str = "192.0.2.1", door: str = "/sign-in", language: str = "en"
) -> Response:
    client = Client(REMOTE_ADDR=address, headers={"accept-language": language})
    return client.post(door, {"username": name, "password": password})


def fail(name: str, times: int, address: str = "192.0.2.1", door: str = "/sign-in") -> list[int]:
    return [sign_in(name, "wrong", address, door).status_code for _ in range(times)]


@pytest.mark.parametrize("door", DOORS)
def test_after_a_few_failures_there_is_a_pause(user: User, door: str) -> None:
    # One more begins the pause; it is the next that comes too early.
    assert fail(user.username, FREE_TRIES + 1, door=door) == [200] * (FREE_TRIES + 1)
    refused = sign_in(user.username, PASSWORD, door=door)
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 2
    assert "no-store" in refused["Cache-Control"]
    assert "Too many tries." in refused.content.decode()


def test_the_pause_is_told_in_the_readers_language(user: User) -> None:
    fail(user.username, FREE_TRIES + 1)
    refused = sign_in(user.username, PASSWORD, language="id")
    assert refused.status_code == 429
    assert 'lang="id"' in refused.content.decode()
    assert "Terlalu banyak percobaan." in refused.content.decode()


def test_a_stranger_keeps_nobody_out(user: User) -> None:
    fail(user.username, FREE_TRIES + 3, "203.0.113.5")
    assert sign_in(user.username, PASSWORD, "203.0.113.5").status_code == 429
    assert sign_in(user.username, PASSWORD).status_code == 302


def test_many_strangers_keep_nobody_out_and_get_one_try_each(user: User) -> None:
    for each in range(GUESSED_FAILURES + 1):
        fail(user.username, 1, f"203.0.113.{each}")
    assert fail(user.username, 3, "198.51.100.7") == [200, 200, 429]
    assert sign_in(user.username, PASSWORD).status_code == 302


def test_an_address_that_tries_many_names_is_paused(user: User) -> None:
    for each in range(FREE_TRIES_OF_ADDRESS + 1):
        assert fail(f"nobody{each}", 1) == [200]
    assert sign_in(user.username, PASSWORD).status_code == 429
    assert sign_in(user.username, PASSWORD, "192.0.2.2").status_code == 302


def test_signing_in_forgets_the_failures(user: User) -> None:
    for _ in range(3):
        fail(user.username, FREE_TRIES - 1)
        assert sign_in(user.username, PASSWORD).status_code == 302


def test_signing_in_oneself_does_not_free_an_address_that_guesses(user: User) -> None:
    for each in range(FREE_TRIES_OF_ADDRESS):
        fail(f"nobody{each}", 1)
        assert sign_in(user.username, PASSWORD).status_code == 302
    fail("nobody", 1)
    assert sign_in(user.username, PASSWORD).status_code == 429


def test_many_tries_at_once_are_no_way_round(user: User) -> None:
    this = Try(name=user.username, address="192.0.2.1")
    with ThreadPoolExecutor(16) as crowd:
        waits = list(crowd.map(lambda _: this.begin(), range(60)))
    assert waits.count(0.0) == FREE_TRIES + 1
    assert len([each for each in waits if each > 0]) == 60 - FREE_TRIES - 1


def test_pauses_grow_up_to_a_quarter_of_an_hour() -> None:
    pauses = [pause_after(each) for each in range(12)]
    assert pauses[:5] == [0.0, 2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == pause_after(10**6) == LONGEST_PAUSE_SECONDS
    assert pauses == sorted(pauses)


def test_a_try_that_was_refused_makes_the_pause_no_longer() -> None:
    this = Try(name="x", address="192.0.2.1")
    for _ in range(FREE_TRIES + 1):
        this.begin()
    for _ in range(10):
        assert 0 < this.begin() <= 2.0
    assert tally.add({this.pair: 0}, 60) == [FREE_TRIES + 1]


def test_reading_the_form_is_never_limited(user: User) -> None:
    fail(user.username, FREE_TRIES + 2)
    assert Client(REMOTE_ADDR="192.0.2.1").get("/sign-in").status_code == 200
    assert Client(REMOTE_ADDR="192.0.2.1").get("/admin/login/").status_code == 200


def test_where_redis_is_away_one_signs_in(user: User, settings: Settings) -> None:
    without_redis(settings)
    assert fail(user.username, FREE_TRIES + 3) == [200] * (FREE_TRIES + 3)
    assert sign_in(user.username, PASSWORD).status_code == 302


def test_names_stand_in_redis_as_digests_only(user: User) -> None:
    fail("hunter2", 1)
    keys = [repr(key) for key in tally._redis().keys("*signin*")]
    assert keys
    assert not any("hunter2" in key or "192.0.2.1" in key for key in keys)


@pytest.mark.parametrize(
    ("behind_proxy", "remote", "forwarded", "expected"),
    [
        (False, "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (True, "127.0.0.1", "10.9.9.9, 203.0.113.9", "203.0.113.9"),
        (True, "127.0.0.1", "", None),
        (True, "127.0.0.1", "unknown", None),
        (False, "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
        (False, "::ffff:192.0.2.1", "", "192.0.2.1"),
        (False, "", "", None),
    ],
)
def test_an_address_is_what_the_proxy_says_and_not_what_its_client_says(
    settings: Settings, behind_proxy: bool, remote: str, forwarded: str, expected: str | None
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if behind_proxy else None
    request = RequestFactory(headers={"X-Forwarded-For": forwarded}).post("/sign-in", REMOTE_ADDR=remote)
    assert address_of(request) == expected


def test_where_no_address_is_known_only_the_name_is_counted(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_in, "address_of", lambda _request: None)
    for each in range(FREE_TRIES_OF_ADDRESS + 3):
        fail(f"nobody{each}", 1)
    assert sign_in(user.username, PASSWORD).status_code == 302
