"""Watch tokens, rates and pages of elsewhere, from outside: by the real server, at each door."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.stack import Client, Stack, running_stack
from tests.e2e.test_push import events_until_end, hear, say

APP = "https://app.example.org"
READS = 1000


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a Kabar that is open to a page of elsewhere, has a rate, and writes down all that it can."""
    with running_stack(
        tmp_path_factory.mktemp("house"),
        new_database_url(),
        CORS_ALLOWED_ORIGINS=APP,
        KABAR_READ_RATE=f"{READS}/hour",
        LOG_LEVEL="DEBUG",
    ) as running:
        yield running


@pytest.fixture
def client(house: Stack) -> Client:
    return house.client()


def watch_token(client: Client, **fields: object) -> str:
    made = client.post("/api/watch-tokens", fields)
    assert made.status_code == 201, made.text
    token: str = made.json()["token"]
    return token


@contextmanager
def socket(house: Stack, query: str = "", headers: dict[str, str] | None = None) -> Iterator[ClientConnection]:
    url = f"{house.url.replace('http', 'ws')}/ws/jobs{query}"
    with connect(url, additional_headers=headers or {}, proxy=None) as connection:
        yield connection


def get(house: Stack, path: str, **options: object) -> requests.Response:
    """Ask without a credential of one's own."""
    return requests.get(house.url + path, timeout=70, **options)  # type: ignore[arg-type]


def left(response: requests.Response) -> int:
    match = re.fullmatch(r'"read";r=(\d+);t=\d+', response.headers["RateLimit"])
    assert match
    return int(match[1])


def test_a_stream_takes_a_watch_token_in_its_url_and_is_open_to_the_page(house: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 1, "steps": 3})
    token = watch_token(client, jobId=job_id)
    headers = {"Accept": "text/event-stream", "Origin": APP}
    path = f"/api/jobs/{job_id}/events?token={token}"
    with get(house, path, headers=headers, stream=True) as response:
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert response.headers["Vary"].lower().count("origin") == 1
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert left(response) < READS
        lines = list(response.iter_lines(decode_unicode=True))
    assert "event: job.completed" in lines
    over = get(house, path, headers={**headers, "Last-Event-ID": str(client.job(job_id)["sequence"])})
    assert (over.status_code, over.headers["Access-Control-Allow-Origin"]) == (204, APP)
    check = get(house, "/api/events?token=unknown", headers=headers)
    assert (check.status_code, check.headers["Access-Control-Allow-Origin"]) == (401, APP)


def test_a_socket_takes_a_watch_token_in_its_url_and_in_its_first_message(house: Stack, client: Client) -> None:
    token = watch_token(client)
    with socket(house, f"?token={token}") as by_url, socket(house) as by_message:
        say(by_message, type="auth", token=token)
        assert hear(by_message)["type"] == "authenticated"
        for connection in (by_url, by_message):
            say(connection, type="subscribe")
            assert hear(connection)["type"] == "subscribed"
        job_id = client.submit()
        for connection in (by_url, by_message):
            assert events_until_end(connection, job_id)[-1]["type"] == "job.completed"


def test_a_socket_with_a_bound_watch_token_hears_of_its_job_alone(house: Stack, client: Client) -> None:
    job_id, other = client.submit(params={"seconds": 1, "steps": 1}), client.submit()
    with socket(house, f"?token={watch_token(client, jobId=job_id)}") as connection:
        say(connection, type="subscribe")
        assert hear(connection)["code"] == "insufficient_scope"
        say(connection, type="subscribe", jobId=other)
        assert hear(connection)["code"] == "not_found"
        say(connection, type="subscribe", jobId=job_id, after=0)
        assert hear(connection)["type"] == "subscribed"
        assert events_until_end(connection, job_id)[-1]["type"] == "job.completed"


@pytest.mark.parametrize("scope", ["submit", "manage"])
def test_a_socket_takes_no_token_that_may_not_read(house: Stack, client: Client, scope: str) -> None:
    token = client.post("/api/tokens", {"name": scope, "scopes": [scope]}).json()["token"]
    with socket(house, headers={"Authorization": f"Bearer {token}"}) as connection:
        say(connection, type="subscribe")
        assert hear(connection)["code"] == "unauthenticated"


def test_a_socket_takes_no_ordinary_token_in_its_url(house: Stack, client: Client) -> None:
    with socket(house, f"?token={client.token}") as connection:
        say(connection, type="subscribe")
        assert hear(connection)["code"] == "unauthenticated"


def test_a_socket_ends_soon_after_its_watch_token(house: Stack, client: Client) -> None:
    with socket(house, f"?token={watch_token(client, expiresIn=1)}") as connection:
        say(connection, type="subscribe")
        assert hear(connection)["type"] == "subscribed"
        with suppress(ConnectionClosed):
            for _ in connection:  # what other tests do; then its end, at the hub's next look
                pass
        assert connection.close_code == 4401


def test_an_answer_that_is_held_counts_once(house: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 2, "steps": 20})  # each step wakes whoever waits
    before = left(client.get("/api/kinds"))
    held = client.get(f"/api/jobs/{job_id}?wait=20")
    assert held.json()["done"]
    assert left(held) == before - 1
    assert left(client.get("/api/kinds")) == before - 2
    reset = client.get("/api/events?cursor=unknown", headers={"Accept": "text/event-stream"}, stream=True)
    reset.close()
    assert left(reset) == before - 3


def test_a_preflight_is_answered_by_the_real_server(house: Stack) -> None:
    asked = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    response = requests.options(f"{house.url}/api/jobs", headers=asked, timeout=10)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == APP
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_no_line_of_the_log_holds_a_watch_token(house: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 60})
    token = watch_token(client)
    for path in (f"/api/jobs/{job_id}", "/api/events", f"/api/jobs/{job_id}?wait=1", "/api/jobs", "/api/nothing", "/x"):
        get(house, f"{path}{'&' if '?' in path else '?'}token={token}")
    requests.post(f"{house.url}/api/jobs?token={token}", data="{", timeout=10)
    with socket(house, f"?token={token}") as connection:
        say(connection, type="subscribe")
        hear(connection)
        stream = get(house, f"/api/events?token={token}", headers={"Accept": "text/event-stream"}, stream=True)
        # A server that stops complains of what is still open, with its URL.
        house.supervisor.restart("web")
        stream.close()
    log = (house.data / "log.txt").read_text()
    assert "/api/nothing" in log
    assert token not in log
    assert client.token not in log
