"""Tokens: what they may be used for, how they are made, and how they end; watch tokens above all."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.utils import timezone
from django.views.debug import ExceptionReporter

from config.redaction import RedactingFormatter
from jobs.api.authentication import BearerAuthentication
from jobs.api.middleware import ApiMiddleware
from jobs.credentials import find_token, make_token, remove_expired_tokens
from jobs.models import Scope, Token
from jobs.sweeper import purge
from jobs.visibility import look_again, viewer_of
from tests.factories import new_job, new_user
from tests.jobs.api_client import Caller, check_problem, pointers_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

pytestmark = pytest.mark.django_db

WATCH = "/api/watch-tokens"
TOKENS = "/api/tokens"


@pytest.fixture
def caller() -> Caller:
    return Caller()


def bearer(text: str) -> Client:
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {text}"})


def nobody() -> Client:
    return Client(raise_request_exception=False)


def limited_to(user: User, *scopes: Scope) -> Client:
    return bearer(make_token(user, "limited", scopes=scopes).text)


def watch_token(caller: Caller, **fields: Any) -> str:
    made = caller.post(WATCH, fields)
    assert made.status_code == 201, made.content
    token: str = made.json()["token"]
    return token


# --- Watch tokens -----------------------------------------------------------------------------------------------------


def test_a_watch_token_reads_a_job_by_url_and_by_header(caller: Caller) -> None:
    job = new_job(caller.user)
    token = watch_token(caller, jobId=str(job.pk))
    for path in (f"/api/jobs/{job.pk}", f"/api/jobs/status/{job.pk}", f"/api/jobs/{job.pk}/events"):
        assert nobody().get(path, {"token": token}).status_code == 200
        assert bearer(token).get(path).status_code == 200
        assert nobody().get(path).status_code == 401


def test_a_watch_token_tells_when_it_ends_and_which_job_it_sees(caller: Caller) -> None:
    job = new_job(caller.user)
    before = timezone.now()
    made = caller.post(WATCH, {"jobId": str(job.pk), "expiresIn": 60})
    assert made["Cache-Control"] == "no-store"
    body = made.json()
    assert set(body) == {"token", "expiresAt", "jobId"}
    assert body["jobId"] == str(job.pk)
    row = Token.objects.get(scopes=["watch"])
    assert before + timedelta(seconds=60) <= row.expiry <= timezone.now() + timedelta(seconds=60)
    assert Token.objects.filter(pk=row.pk, expiry=body["expiresAt"]).exists()


def test_a_watch_token_needs_no_body_and_is_good_for_a_quarter_of_an_hour(caller: Caller) -> None:
    made = caller.client.post(WATCH, content_type="application/json")
    assert made.status_code == 201
    left = Token.objects.get(scopes=["watch"]).expiry - timezone.now()
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    assert made.json()["jobId"] is None


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 1.5, "60", True, None])
def test_a_watch_token_lives_from_a_second_to_a_day(caller: Caller, seconds: object) -> None:
    assert pointers_of(caller.post(WATCH, {"expiresIn": seconds})) == ["/expiresIn"]
    assert not Token.objects.filter(scopes=["watch"]).exists()


def test_a_bound_watch_token_sees_its_job_only(caller: Caller) -> None:
    job, other = new_job(caller.user), new_job(caller.user)
    token = watch_token(caller, jobId=str(job.pk))
    for path in (f"/api/jobs/{other.pk}", f"/api/jobs/status/{other.pk}", f"/api/jobs/{other.pk}/events"):
        check_problem(nobody().get(path, {"token": token}), 404)
    check_problem(nobody().get("/api/events", {"token": token}), 403)


def test_a_watch_token_without_a_job_sees_what_its_maker_sees(caller: Caller) -> None:
    own, foreign = new_job(caller.user), new_job()
    token = watch_token(caller)
    assert nobody().get(f"/api/jobs/{own.pk}", {"token": token}).status_code == 200
    assert nobody().get("/api/events", {"token": token}).status_code == 200
    check_problem(nobody().get(f"/api/jobs/{foreign.pk}", {"token": token}), 404)


def test_no_watch_token_is_made_for_a_job_that_one_does_not_see(caller: Caller) -> None:
    for job_id in (new_job().pk, uuid4()):
        assert pointers_of(caller.post(WATCH, {"jobId": str(job_id)})) == ["/jobId"]


def test_a_watch_token_does_nothing_but_watch(caller: Caller) -> None:
    job = new_job(caller.user)
    client = bearer(watch_token(caller))
    tries = [
        client.get("/api/jobs"),
        client.get("/api/kinds"),
        client.post("/api/jobs", {"kind": "demo.countdown"}, content_type="application/json"),
        client.post(f"/api/jobs/{job.pk}/cancel"),
        client.delete(f"/api/jobs/{job.pk}"),
        client.post(WATCH),
        client.get(TOKENS),
        client.get("/api/callback-secret"),
    ]
    for response in tries:
        check_problem(response, 403)
        assert response["WWW-Authenticate"].startswith('Bearer error="insufficient_scope", scope="')
    job.refresh_from_db()
    assert job.status == "PENDING"


def test_in_a_url_only_a_watch_token_is_taken(caller: Caller) -> None:
    job = new_job(caller.user)
    text = make_token(caller.user, "full").text
    path = f"/api/jobs/{job.pk}"
    assert bearer(text).get(path).status_code == 200
    check_problem(nobody().get(path, {"token": text}), 401)
    check_problem(nobody().get(path, {"token": "unknown"}), 401)
    check_problem(nobody().get(path, {"token": ""}), 401)
    check_problem(nobody().post(f"{path}/cancel?token={watch_token(caller)}"), 401)


def test_an_expired_watch_token_is_refused_and_swept(caller: Caller) -> None:
    job = new_job(caller.user)
    token = watch_token(caller)
    Token.objects.filter(scopes=["watch"]).update(expiry=timezone.now())
    check_problem(nobody().get(f"/api/jobs/{job.pk}", {"token": token}), 401)
    assert purge.sweep() == 1
    assert not Token.objects.filter(scopes=["watch"]).exists()
    assert caller.get("/api/kinds").status_code == 200


def test_other_expired_tokens_are_shown_for_a_month(caller: Caller) -> None:
    now = timezone.now()
    for days in (1, 31):
        Token.objects.filter(pk=make_token(caller.user, f"{days}").row.pk).update(expiry=now - timedelta(days=days))
    assert remove_expired_tokens(now, 10) == 1
    assert {each["name"] for each in caller.get(TOKENS).json()} == {"test", "1"}


def test_a_watch_token_dies_with_the_token_it_was_made_with(caller: Caller) -> None:
    job = new_job(caller.user)
    made = make_token(caller.user, "parent")
    token = bearer(made.text).post(WATCH, content_type="application/json").json()["token"]
    row = find_token(token)
    assert row is not None
    viewer = viewer_of(caller.user, row)
    assert look_again([viewer])[viewer] == viewer
    assert caller.delete(f"{TOKENS}/{made.row.id}").status_code == 204
    check_problem(nobody().get(f"/api/jobs/{job.pk}", {"token": token}), 401)
    assert look_again([viewer])[viewer] is None


def test_a_watch_token_never_outlives_the_token_it_was_made_with(caller: Caller) -> None:
    made = make_token(caller.user, "parent", expires_at=timezone.now() + timedelta(seconds=100))
    bearer(made.text).post(WATCH, content_type="application/json")
    assert Token.objects.get(scopes=["watch"]).expiry <= made.row.expiry


def test_a_watch_token_made_in_a_session_dies_with_it(caller: Caller, client: Client) -> None:
    job = new_job(caller.user)
    client.force_login(caller.user)
    token = client.post(WATCH, content_type="application/json").json()["token"]
    path = f"/api/jobs/{job.pk}"
    assert nobody().get(path, {"token": token}).status_code == 200
    client.logout()
    check_problem(nobody().get(path, {"token": token}), 401)


def test_a_watch_token_made_in_a_session_dies_with_the_password(caller: Caller, client: Client) -> None:
    job = new_job(caller.user)
    client.force_login(caller.user)
    token = client.post(WATCH, content_type="application/json").json()["token"]
    row = find_token(token)
    assert row is not None
    viewer = viewer_of(caller.user, row)
    assert look_again([viewer])[viewer] == viewer
    caller.user.set_password("another one")
    caller.user.save()
    check_problem(nobody().get(f"/api/jobs/{job.pk}", {"token": token}), 401)
    assert look_again([viewer])[viewer] is None


def test_a_session_makes_watch_tokens_only_with_a_csrf_token(caller: Caller) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(caller.user)
    check_problem(strict.post(WATCH), 403)


def test_a_job_with_a_watch_token_can_be_removed(caller: Caller) -> None:
    job = new_job(caller.user)
    token = watch_token(caller, jobId=str(job.pk))
    assert caller.post(f"/api/jobs/{job.pk}/cancel").status_code == 200
    assert caller.delete(f"/api/jobs/{job.pk}").status_code == 204
    check_problem(nobody().get(f"/api/jobs/{job.pk}", {"token": token}), 404)
    connection.check_constraints()


# --- Tokens in URLs are not written down ------------------------------------------------------------------------------


def test_an_answer_to_a_url_with_a_token_is_kept_nowhere_and_tells_nobody(caller: Caller) -> None:
    job = new_job(caller.user)
    response = nobody().get(f"/api/jobs/{job.pk}/events", {"token": watch_token(caller)})
    assert response["Referrer-Policy"] == "no-referrer"
    assert "private" in response["Cache-Control"]


def test_a_url_loses_its_token_before_django_sees_it() -> None:
    seen: list[HttpRequest] = []

    def view(request: HttpRequest) -> Any:
        seen.append(request)
        return Client().get("/healthz")

    request = RequestFactory().get("/api/events?token=SESAME&wait=5&x=%26token%3Dy&token=SESAME")
    ApiMiddleware(view)(request)
    assert seen[0].GET.dict() == {"wait": "5", "x": "&token=y"}
    reporter = ExceptionReporter(seen[0], RuntimeError, RuntimeError("broken"), None)
    for report in (reporter.get_traceback_text(), reporter.get_traceback_html(), seen[0].build_absolute_uri()):
        assert "SESAME" not in report


def test_a_fault_with_a_token_in_the_url_is_logged_without_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = watch_token(caller)

    def broken(*_args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(BearerAuthentication, "authenticate", broken)
    with caplog.at_level(logging.DEBUG):
        check_problem(nobody().get("/api/events", {"token": token}), 500)
    assert "Internal Server Error" in caplog.text
    assert token not in caplog.text


def test_log_lines_lose_the_tokens_of_urls() -> None:
    record = logging.LogRecord(
        "daphne", logging.WARNING, "", 1, "<WebRequest uri=/api/events?token=SESAME&wait=5>", None, None
    )
    assert RedactingFormatter("%(message)s").format(record) == "<WebRequest uri=/api/events?token=…&wait=5>"


# --- Scopes -----------------------------------------------------------------------------------------------------------


def test_a_token_without_scopes_may_do_everything(caller: Caller) -> None:
    client = limited_to(caller.user)
    assert client.get("/api/jobs").status_code == 200
    assert client.get(TOKENS).status_code == 200


def test_each_scope_opens_its_part(caller: Caller) -> None:
    job = new_job(caller.user)
    read, submit, manage = (limited_to(caller.user, each) for each in (Scope.READ, Scope.SUBMIT, Scope.MANAGE))
    body = json.dumps({"kind": "demo.countdown"})
    assert read.get(f"/api/jobs/{job.pk}").status_code == 200
    assert submit.post("/api/jobs", body, content_type="application/json").status_code == 202
    assert manage.post(f"/api/jobs/{job.pk}/cancel").status_code == 200
    for client, needed, response in (
        (read, "submit", read.post("/api/jobs", body, content_type="application/json")),
        (read, "manage", read.post(f"/api/jobs/{job.pk}/retry")),
        (read, "manage", read.get("/api/callback-secret")),
        (submit, "read", submit.get(f"/api/jobs/{job.pk}")),
        (manage, "submit", manage.post("/api/jobs", body, content_type="application/json")),
    ):
        assert client
        assert "scope" in check_problem(response, 403)["detail"]
        assert response["WWW-Authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'


def test_a_scope_shows_nothing_that_the_user_does_not_see(caller: Caller) -> None:
    check_problem(limited_to(caller.user, Scope.READ).get(f"/api/jobs/{new_job().pk}"), 404)


# --- One's own tokens -------------------------------------------------------------------------------------------------


def test_a_token_is_made_shown_once_listed_and_revoked(caller: Caller) -> None:
    made = caller.post(TOKENS, {"name": "laptop", "scopes": ["read", "submit"], "expiresIn": 3600})
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    body = made.json()
    text = body.pop("token")
    client = bearer(text)
    assert client.get("/api/jobs").status_code == 200
    listed = {each["name"]: each for each in caller.get(TOKENS).json()}
    assert set(listed) == {"test", "laptop"}
    assert listed["laptop"] | {"lastUsedAt": None} == body
    assert listed["laptop"]["lastUsedAt"] is not None
    assert text.startswith(body["startsWith"])
    assert body["scopes"] == ["read", "submit"]
    assert UUID(body["id"]).version == 7
    assert text not in json.dumps(listed)
    assert caller.delete(f"{TOKENS}/{body['id']}").status_code == 204
    check_problem(client.get("/api/jobs"), 401)


def test_another_users_token_is_neither_listed_nor_revoked(caller: Caller) -> None:
    foreign = make_token(new_user(), "foreign").row
    assert [each["name"] for each in caller.get(TOKENS).json()] == ["test"]
    check_problem(caller.delete(f"{TOKENS}/{foreign.id}"), 404)
    assert Token.objects.filter(pk=foreign.pk).exists()


def test_a_limited_token_makes_none_that_may_more(caller: Caller) -> None:
    hour = timezone.now() + timedelta(hours=1)
    made = make_token(caller.user, "m", scopes=[Scope.MANAGE, Scope.READ], expires_at=hour)
    client = bearer(made.text)

    def post(**fields: Any) -> Any:
        return client.post(TOKENS, json.dumps({"name": "x"} | fields), content_type="application/json")

    assert pointers_of(post(scopes=["read", "submit"])) == ["/scopes"]
    assert pointers_of(post(expiresIn=7200)) == ["/expiresIn"]
    assert post(scopes=["read"], expiresIn=60).json()["scopes"] == ["read"]
    heir = post().json()
    assert heir["scopes"] == ["manage", "read"]
    assert Token.objects.get(id=heir["id"]).expiry <= made.row.expiry


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": 5}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"name": "x", "scopes": ["watch"]}, "/scopes/0"),
        ({"name": "x", "scopes": "read"}, "/scopes"),
        ({"name": "x", "expiresIn": 0}, "/expiresIn"),
        ({"name": "x", "expiresIn": 10**12}, "/expiresIn"),
        ({"name": "x", "user": 1}, "/user"),
    ],
)
def test_a_wrong_wish_for_a_token_is_422(caller: Caller, fields: dict[str, Any], pointer: str) -> None:
    assert pointer in pointers_of(caller.post(TOKENS, fields))
    assert Token.objects.count() == 1


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_token_with_name_scopes_and_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    user = new_user()
    call_command("create_token", user.username, name="ci", scope=["read", "submit"], expires=timedelta(days=90))
    call_command("create_token", user.username, "--name", "x", "--scope", "read", "--scope", "read", "--expires", "12h")
    first, second = (find_token(each) for each in capsys.readouterr().out.split())
    assert first is not None
    assert second is not None
    assert (first.name, first.scopes) == ("ci", ["read", "submit"])
    assert second.scopes == ["read"]
    assert timedelta(hours=11) < second.expiry - timezone.now() <= timedelta(hours=12)


@pytest.mark.parametrize("arguments", [["--expires", "soon"], ["--expires", "0d"], ["--scope", "watch"]])
def test_the_command_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("create_token", new_user().username, *arguments)
    assert not Token.objects.exists()


def test_a_team_mates_watch_token_sees_the_teams_jobs(caller: Caller) -> None:
    team = Group.objects.create(name="desk")
    caller.user.groups.add(team)
    job = new_job(team_id=team.pk)
    token = watch_token(caller, jobId=str(job.pk))
    assert nobody().get(f"/api/jobs/{job.pk}", {"token": token}).status_code == 200
    caller.user.groups.clear()
    check_problem(nobody().get(f"/api/jobs/{job.pk}", {"token": token}), 404)
