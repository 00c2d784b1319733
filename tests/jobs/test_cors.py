"""What pages of elsewhere may do: the API with a token, and nothing with a cookie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.test import Client

from jobs.rates import Rate
from tests.factories import new_job
from tests.jobs.api_client import Caller
from tests.jobs.counting import own_counts

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Response
    from pytest_django import Settings

__all__ = ["own_counts"]

pytestmark = pytest.mark.django_db

APP = "https://app.example.org"


@pytest.fixture(autouse=True)
def open_to_app(settings: Settings) -> None:
    settings.CORS_ALLOWED_ORIGINS = [APP]


def preflight(path: str, origin: str = APP, method: str = "POST", headers: str = "authorization") -> Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return Client().options(path, headers=asked)


def words(response: Response, name: str) -> set[str]:
    return {each.strip().lower() for each in response.headers.get(name, "").split(",") if each}


def test_a_preflight_is_answered_without_a_credential() -> None:
    response = preflight("/api/jobs")
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == APP
    assert {"get", "post", "patch", "delete"} <= words(response, "Access-Control-Allow-Methods")
    allowed = words(response, "Access-Control-Allow-Headers")
    assert {
        "authorization",
        "content-type",
        "idempotency-key",
        "if-none-match",
        "last-event-id",
        "prefer",
    } <= allowed
    assert "access-control-allow-credentials" not in response
    assert "origin" in words(response, "Vary")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example.org", f"{APP}.evil.example", "null"])
def test_other_origins_get_no_permission(origin: str) -> None:
    assert "access-control-allow-origin" not in preflight("/api/jobs", origin)
    assert "access-control-allow-origin" not in Caller().get("/api/jobs", headers={"Origin": origin})


@pytest.mark.parametrize("path", ["/sign-in", "/admin/login/", "/healthz", "/"])
def test_nothing_but_the_api_is_open(path: str) -> None:
    assert "access-control-allow-origin" not in Client().get(path, headers={"Origin": APP})


@pytest.mark.usefixtures("own_counts")
def test_an_answer_shows_the_headers_that_a_client_needs(settings: Settings) -> None:
    settings.READ_RATE = Rate(quota=9, window_seconds=60)
    caller = Caller()
    response = caller.get(f"/api/jobs/{new_job(caller.user).pk}", headers={"Origin": APP})
    assert response["Access-Control-Allow-Origin"] == APP
    assert {
        "location",
        "retry-after",
        "etag",
        "idempotent-replayed",
        "preference-applied",
        "ratelimit",
        "ratelimit-policy",
    } <= words(response, "Access-Control-Expose-Headers")
    assert response["RateLimit"].startswith('"read";r=8;t=')


def test_refusals_may_be_read_too() -> None:
    response = Client().get("/api/jobs", headers={"Origin": APP})
    assert (response.status_code, response["Access-Control-Allow-Origin"]) == (401, APP)
