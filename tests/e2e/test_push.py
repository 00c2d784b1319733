"""A client holds a connection and is told, from outside: WebSocket and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.stack import Client, Stack

FINALS = {"job.completed", "job.failed", "job.cancelled"}


@contextmanager
def socket(stack: Stack, token: str | None) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = stack.url.replace("http", "ws") + "/ws/jobs"
    with connect(url, additional_headers=headers, subprotocols=["kabar.v1"], proxy=None) as connection:  # type: ignore[list-item]
        yield connection


def say(connection: ClientConnection, **message: Any) -> None:
    connection.send(json.dumps(message))


def hear(connection: ClientConnection, timeout_seconds: float = 20) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(timeout=timeout_seconds))
    return message


def events_until_end(connection: ClientConnection, job_id: str) -> list[dict[str, Any]]:
    events = []
    while True:
        message = hear(connection)
        if message["type"] == "event" and message["event"]["data"]["jobId"] == job_id:
            events.append(message["event"])
            if message["event"]["type"] in FINALS:
                return events


def kept(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [without_estimates(each) for each in events if each["id"]]


def without_estimates(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"data": event["data"] | {"estimatedFinishAt": None}}


def log_of(client: Client, job_id: str) -> list[dict[str, Any]]:
    return kept(client.get(f"/api/jobs/{job_id}/events").json()["events"])


def sse(client: Client, path: str, **headers: str) -> Generator[dict[str, str]]:
    """Read a stream's events, until the server ends it."""
    with client.get(path, headers={"Accept": "text/event-stream", **headers}, stream=True) as response:
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        for line in response.iter_lines(decode_unicode=True):
            if not line and "data" in event:
                yield event
            if not line:
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value


def test_a_socket_that_watches_all_hears_a_job_submitted_by_plain_http(stack: Stack, client: Client) -> None:
    with socket(stack, client.token) as connection:
        assert connection.subprotocol == "kabar.v1"
        say(connection, type="subscribe")
        subscribed = hear(connection)
        assert (subscribed["type"], subscribed["recovered"]) == ("subscribed", True)
        job_id = client.submit(params={"seconds": 1, "steps": 10})
        events = events_until_end(connection, job_id)
    assert kept(events) == log_of(client, job_id)
    progress = [each for each in events if each["type"] == "job.progress"]
    assert progress
    versions = [each["data"]["version"] for each in progress]
    assert versions == sorted(set(versions))
    percents = [each["data"]["progress"]["percent"] for each in progress]
    assert percents == sorted(percents)


def test_a_socket_that_watches_one_job_gets_its_history_first(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 1, "steps": 5})
    client.get(f"/api/jobs/{job_id}/events?after=1&wait=10")
    with socket(stack, client.token) as connection:
        say(connection, type="subscribe", jobId=job_id, after=0)
        subscribed = hear(connection)
        assert (subscribed["type"], subscribed["job"]["jobId"]) == ("subscribed", job_id)
        assert kept(events_until_end(connection, job_id)) == log_of(client, job_id)


def test_a_socket_resumes_by_its_cursor_and_misses_nothing(stack: Stack, client: Client) -> None:
    with socket(stack, client.token) as connection:
        say(connection, type="subscribe")
        cursor = hear(connection)["cursor"]
        first = client.submit(params={"seconds": 0, "steps": 1})
        before: list[dict[str, Any]] = []
        while not before or before[-1]["event"]["type"] != "job.accepted":
            before.append(hear(connection))
        cursor = before[-1]["cursor"]
    client.finished(first)
    with socket(stack, client.token) as connection:
        say(connection, type="subscribe", cursor=cursor)
        assert hear(connection)["recovered"] is True
        events = [before[-1]["event"], *events_until_end(connection, first)]
    assert kept(events) == log_of(client, first)


def test_a_cursor_that_is_not_ours_is_told(stack: Stack, client: Client) -> None:
    with socket(stack, client.token) as connection:
        say(connection, type="subscribe", cursor="bm90IG91cnM")
        assert hear(connection)["recovered"] is False
    assert client.get("/api/events?cursor=bm90IG91cnM").status_code == 410


def test_a_socket_authenticates_by_its_first_message(stack: Stack, client: Client) -> None:
    with socket(stack, None) as connection:
        say(connection, type="subscribe")
        assert hear(connection)["code"] == "unauthenticated"
        say(connection, type="auth", token=client.token)
        assert hear(connection)["type"] == "authenticated"
        say(connection, type="ping")
        assert hear(connection) == {"type": "pong"}


@pytest.mark.parametrize("says_something", [True, False])
def test_a_socket_without_a_good_credential_is_closed(stack: Stack, says_something: bool) -> None:
    with socket(stack, None) as connection:
        if says_something:
            say(connection, type="auth", token="nonsense")
        with pytest.raises(ConnectionClosed) as closed:
            hear(connection)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def talk_nonsense(connection: ClientConnection) -> None:
    for _ in range(20):
        connection.send("x")
        hear(connection)


def test_nonsense_gets_an_error_and_too_much_of_it_the_end(stack: Stack, client: Client) -> None:
    with socket(stack, client.token) as connection:
        for text in ("[]", "{", '{"type": "dance"}', '{"type": "subscribe", "jobId": 7}', "\x00", '{"type": []}'):
            connection.send(text)
            assert hear(connection)["type"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            talk_nonsense(connection)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400


def test_another_users_job_is_not_found_and_not_heard(stack: Stack, client: Client) -> None:
    stranger = stack.client("stranger")
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    with socket(stack, stranger.token) as connection:
        say(connection, type="subscribe", jobId=job_id)
        assert hear(connection)["code"] == "not_found"
        say(connection, type="subscribe")
        assert hear(connection)["type"] == "subscribed"
        client.finished(client.submit(params={"seconds": 0, "steps": 1}))
        own = stranger.submit(params={"seconds": 0, "steps": 1})
        message = hear(connection)
        assert message["event"]["data"]["jobId"] == own


def test_team_mates_see_each_others_jobs(stack: Stack) -> None:
    one, other = stack.client("mate-one"), stack.client("mate-two")
    stack.manage(
        "shell",
        "-c",
        "from django.contrib.auth.models import Group, User\n"
        "team, _ = Group.objects.get_or_create(name='desk')\n"
        "team.user_set.set(User.objects.filter(username__startswith='mate-'))",
    )
    with socket(stack, other.token) as connection:
        say(connection, type="subscribe")
        hear(connection)
        job_id = one.submit(params={"seconds": 0, "steps": 1}, team="desk")
        assert kept(events_until_end(connection, job_id)) == log_of(one, job_id)
    assert other.job(job_id)["jobId"] == job_id
    assert other.post(f"/api/jobs/{job_id}/cancel").status_code == 403


def test_a_stream_tells_one_job_from_its_first_event_to_its_last_and_ends(client: Client) -> None:
    job_id = client.submit(params={"seconds": 1, "steps": 10})
    events = list(sse(client, f"/api/jobs/{job_id}/events"))
    envelopes = [json.loads(each["data"]) for each in events]
    assert kept(envelopes) == log_of(client, job_id)
    assert [each["id"] for each in events if "id" in each] == ["1", "2", "3", "4"]
    assert {each["event"] for each in events if "id" not in each} == {"job.progress"}


def test_a_stream_resumes_after_its_last_id_and_a_finished_one_gets_204(client: Client) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    client.finished(job_id)
    resumed = [each["id"] for each in sse(client, f"/api/jobs/{job_id}/events", **{"Last-Event-ID": "2"})]
    assert resumed == ["3", "4"]
    response = client.get(f"/api/jobs/{job_id}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "4"})
    assert response.status_code == 204


def test_a_stream_of_all_jobs_resumes_by_its_cursor(client: Client) -> None:
    cursor = client.get("/api/events").json()["next"]
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    client.finished(job_id)
    stream = sse(client, "/api/events", **{"Last-Event-ID": cursor})
    first = next(stream)
    assert json.loads(first["data"])["type"] == "job.accepted"
    stream.close()
    rest = []
    for each in sse(client, "/api/events", **{"Last-Event-ID": first["id"]}):
        rest.append(json.loads(each["data"]))
        if rest[-1]["type"] in FINALS:
            break
    assert kept([json.loads(first["data"]), *rest]) == log_of(client, job_id)


def test_a_stream_whose_cursor_cannot_be_followed_is_reset(client: Client) -> None:
    first = next(sse(client, "/api/events", **{"Last-Event-ID": "bm90IG91cnM"}))
    assert first["event"] == "reset"
    assert json.loads(first["data"]) == {"cursor": first["id"]}


def test_a_stream_needs_a_credential(stack: Stack) -> None:
    response = requests.get(f"{stack.url}/api/events", headers={"Accept": "text/event-stream"}, timeout=10)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "X-Kabar-Grant" not in response.headers


def test_event_polls_wait_for_news(client: Client) -> None:
    page = client.get("/api/events").json()
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    types: list[str] = []
    while "job.completed" not in types:
        page = client.get(f"/api/events?cursor={page['next']}&wait=10").json()
        types += [each["type"] for each in page["events"] if each["data"]["jobId"] == job_id]
    assert types == ["job.accepted", "job.started", "job.log", "job.completed"]


def test_the_last_id_of_a_stream_wins_over_the_query_it_began_with(client: Client) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    last = client.finished(job_id)["sequence"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
    assert client.get(f"/api/jobs/{job_id}/events?after=1", headers=headers).status_code == 204


def test_json_is_given_to_who_prefers_it(client: Client) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    client.finished(job_id)
    response = client.get(f"/api/jobs/{job_id}/events", headers={"Accept": "application/json, text/event-stream;q=0.1"})
    assert response.headers["Content-Type"] == "application/json"


def test_a_socket_on_another_path_is_refused(stack: Stack) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(stack.url.replace("http", "ws") + "/ws/nope", proxy=None):
        pass
    assert refused.value.response.status_code == 403


def test_a_subscription_ends_with_its_job_and_the_connection_stays(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    client.finished(job_id)
    with socket(stack, client.token) as connection:
        say(connection, type="subscribe", jobId=job_id)
        hear(connection)
        assert client.delete(f"/api/jobs/{job_id}").status_code == 204
        assert hear(connection, 45) == {"type": "unsubscribed", "jobId": job_id}
        say(connection, type="ping")
        assert hear(connection) == {"type": "pong"}


def test_an_idle_socket_is_closed_when_its_token_is_revoked(stack: Stack) -> None:
    one = stack.client("revoked")
    with socket(stack, one.token) as connection:
        say(connection, type="ping")
        hear(connection)
        stack.manage(
            "shell", "-c", "from jobs.models import Token\nToken.objects.filter(user__username='revoked').delete()"
        )
        with pytest.raises(ConnectionClosed) as closed:
            hear(connection, 45)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
