"""The web process as the network sees it: limits, stops, lost hints, and many who wait."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import requests
from websockets.exceptions import ConnectionClosed

from tests.e2e.stack import Client, Stack, is_ready, running_stack
from tests.e2e.test_push import FINALS, hear, kept, log_of, say, sse
from tests.e2e.test_push import socket as web_socket
from tests.waiting import wait_until

LIMIT = 300_000
JSON_LIMIT = 1024 * 1024
FORM_EXTRA = 2 * 1024 * 1024
BOUNDARY = "kabar"
HELD = 200
KEPT_THREADS = 14
"""Those that answer requests stay once they have begun, with the hub's and the polls'."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a Kabar that these tests may break: two sweepers, and a small limit for uploads."""
    data = tmp_path_factory.mktemp("web")
    with running_stack(data, new_database_url(), counts={"sweeper": 2}, KABAR_MAX_UPLOAD=str(LIMIT)) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client("breaker")


def connected(stack: Stack) -> socket.socket:
    parts = urlsplit(stack.url)
    assert parts.hostname
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=20)


def head_of(client: Client, method: str, path: str, *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {client.token}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def answer_from(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer that has a Content-Length."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return status, headers, stream.read(int(headers.get("content-length", 0)))


def check_refused(connection: socket.socket) -> None:
    status, headers, body = answer_from(connection)
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(body)["status"] == 413


def files_under(data: Path) -> set[Path]:
    return {each for name in ("files", "incoming") for each in (data / name).rglob("*") if each.is_file()}


def test_a_body_in_chunks_is_read_like_any_other(stack: Stack, client: Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"kind": "demo.countdown", '
        yield b'"params": {"seconds": 0, "steps": 1}}'

    headers = {"Content-Type": "application/json"}
    response = client.session.post(f"{stack.url}/api/jobs", data=chunks(), headers=headers, timeout=20)
    assert response.status_code == 202, response.text


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "limit"),
    [(f"multipart/form-data; boundary={BOUNDARY}", LIMIT + FORM_EXTRA), ("application/json", JSON_LIMIT)],
)
def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(
    stack: Stack, client: Client, content_type: str, limit: int
) -> None:
    before = files_under(stack.data)
    for expect in ([], ["Expect: 100-continue"]):
        with closing(connected(stack)) as connection:
            length = f"Content-Length: {limit + 1}"
            connection.sendall(head_of(client, "POST", "/api/jobs", f"Content-Type: {content_type}", length, *expect))
            check_refused(connection)
    assert files_under(stack.data) == before


@pytest.mark.parametrize("content_type", [f"multipart/form-data; boundary={BOUNDARY}", "application/json"])
def test_a_body_in_chunks_is_refused_while_it_streams(stack: Stack, client: Client, content_type: str) -> None:
    before = files_under(stack.data)
    with closing(connected(stack)) as connection:
        connection.sendall(
            head_of(client, "POST", "/api/jobs", f"Content-Type: {content_type}", "Transfer-Encoding: chunked")
        )
        start = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
            if "multipart" in content_type
            else '{"kind": "'
        ).encode()
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        block, sent = b"x" * 65536, 0
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
            sent += len(block)
            assert sent < 20_000_000, "it takes whatever comes"
        check_refused(connection)
    wait_until(lambda: files_under(stack.data) == before, 10)
    assert is_ready(stack.url)


def test_a_file_over_the_limit_is_refused_though_its_form_is_small_enough(stack: Stack, client: Client) -> None:
    before = files_under(stack.data)

    def send(size: int) -> Any:
        return client.session.post(
            f"{client.url}/api/jobs",
            data={"job": '{"kind": "csv.report"}'},
            files={"file": ("a.csv", b"a,b\n" + b"1,2\n" * ((size - 4) // 4), "text/csv")},
            timeout=30,
        )

    refused = send(LIMIT + 4)
    assert (refused.status_code, refused.headers["Content-Type"]) == (413, "application/problem+json")
    wait_until(lambda: files_under(stack.data) == before, 10)
    accepted = send(LIMIT)
    assert accepted.status_code == 202, accepted.text
    client.finished(accepted.json()["jobId"])


def test_an_upload_whose_sender_leaves_is_not_kept(stack: Stack, client: Client) -> None:
    before = files_under(stack.data)
    with closing(connected(stack)) as connection:
        content_type = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        connection.sendall(head_of(client, "POST", "/api/jobs", content_type, "Content-Length: 200000"))
        connection.sendall(
            b"--kabar\r\nContent-Disposition: form-data; name=file; filename=a.csv\r\n\r\n" + b"x" * 99999
        )
    assert client.get("/api/kinds").status_code == 200
    wait_until(lambda: files_under(stack.data) == before, 10)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/api/events?x=\xff", ["Accept: text/event-stream"]),
        ("/api/events?cursor=\xff&wait=1", ["Accept: text/event-stream"]),
        ("/api/events?cursor=%ff", ["Accept: text/event-stream"]),
        ("/api/events", ["Accept: text/event-stream", "Last-Event-ID: \xff"]),
        ("/api/jobs?status=\xff", []),
        ("/api/jobs?wait=1&kind=\xff", []),
        ("/api/jobs/\xff", []),
        ("/api/jobs", ["Accept: \xff"]),
        ("/api/jobs", ["Cookie: \xff=\xff; sessionid=\xff"]),
        ("/api/jobs", ["If-None-Match: \xff"]),
        ("/api/jobs", ["Accept-Language: \xff"]),
        ("/api/jobs", ["X: " + "y" * 10_000]),
        ("//api//jobs", []),
    ],
)
def test_bytes_that_are_no_text_get_an_answer_that_is_no_fault_of_ours(
    stack: Stack, client: Client, path: str, lines: list[str]
) -> None:
    with closing(connected(stack)) as connection:
        connection.sendall(head_of(client, "GET", path, "Connection: close", *lines))
        status = int(connection.makefile("rb").readline().split()[1])
    assert status < 500


# --- Many who wait ----------------------------------------------------------------------------------------------------


def threads_of(pid: int) -> int:
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("Threads:"))
    return int(line.split()[1])


def busy_connections(stack: Stack) -> tuple[int, int]:
    """Count the connections of a PostgreSQL database that are in use, and all."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE state <> 'idle'), count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_held_polls_hold_neither_a_thread_nor_a_connection_and_all_wake_at_the_end(
    stack: Stack, client: Client
) -> None:
    pid = stack.supervisor.pid("web")
    assert pid is not None
    job_id = client.submit(params={"seconds": 0, "steps": 1}, runAt="2099-01-01T00:00:00Z")
    client.get("/api/kinds")
    before = threads_of(pid)
    with ExitStack() as opened:
        polls = [opened.enter_context(closing(connected(stack))) for _ in range(HELD)]
        for each in polls:
            each.sendall(head_of(client, "GET", f"/api/jobs/{job_id}?wait=50", "Connection: close"))
        assert client.get("/api/kinds").status_code == 200
        assert threads_of(pid) <= before + KEPT_THREADS
        if stack.env["DATABASE_URL"].startswith("postgres"):
            wait_until(lambda: busy_connections(stack)[0] == 0, 10)
            assert busy_connections(stack)[1] < 40
        assert select.select(polls, [], [], 0)[0] == []
        begun = time.monotonic()
        assert client.get(f"/api/jobs/{job_id}").json()["status"] == "PENDING"
        assert time.monotonic() - begun < 2
        assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 200
        for each in polls:
            status, headers, body = answer_from(each)
            assert (status, json.loads(body)["status"]) == (200, "CANCELLED")
            assert "x-kabar-wait" not in headers
        assert time.monotonic() - begun < 30


# --- Lost hints -------------------------------------------------------------------------------------------------------


def flush(stack: Stack) -> None:
    with closing(redis.Redis.from_url(stack.env["REDIS_URL"])) as connection:
        connection.flushall()


def restart(stack: Stack) -> None:
    stack.supervisor.restart("valkey")


def crash(stack: Stack) -> None:
    pid = stack.supervisor.pid("valkey")
    assert pid is not None
    os.kill(pid, 9)
    wait_until(lambda: stack.supervisor.pid("valkey") not in (pid, None), 20)


@pytest.mark.parametrize("fault", [flush, restart, crash])
def test_no_event_is_lost_with_valkey(stack: Stack, client: Client, fault: Callable[[Stack], None]) -> None:
    streamed: list[dict[str, Any]] = []

    def read_stream(cursor: str) -> None:
        with suppress(requests.RequestException):  # it is still open when a later test stops the server
            for each in sse(client, "/api/events", **{"Last-Event-ID": cursor}):
                streamed.append(json.loads(each["data"]))

    cursor = client.get("/api/events").json()["next"]
    threading.Thread(target=read_stream, args=[cursor], daemon=True).start()
    heard: list[dict[str, Any]] = []
    with web_socket(stack, client.token) as connection:
        say(connection, type="subscribe")
        assert hear(connection)["type"] == "subscribed"
        job_ids = [client.submit(params={"seconds": 0, "steps": 1}) for _ in range(2)]
        fault(stack)
        job_ids += [client.submit(params={"seconds": 0, "steps": 1}) for _ in range(2)]
        while {each["data"]["jobId"] for each in heard if each["type"] in FINALS} < set(job_ids):
            heard.append(hear(connection, 40)["event"])

    def ended() -> set[str]:
        return {each["data"]["jobId"] for each in streamed if each["type"] in FINALS}

    wait_until(lambda: ended() >= set(job_ids), 20, "the stream to tell of all ends")
    for told in (heard, streamed):
        for job_id in job_ids:
            assert kept([each for each in told if each["data"]["jobId"] == job_id]) == log_of(client, job_id)


# --- Stops ------------------------------------------------------------------------------------------------------------


def test_sockets_are_told_of_a_restart(stack: Stack, client: Client) -> None:
    with web_socket(stack, client.token) as connection:
        say(connection, type="subscribe")
        cursor = hear(connection)["cursor"]
        stack.supervisor.stop("web")
        with pytest.raises(ConnectionClosed) as closed:
            hear(connection)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    stack.supervisor.start("web")
    wait_until(lambda: is_ready(stack.url), 30)
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    with web_socket(stack, client.token) as connection:
        say(connection, type="subscribe", cursor=cursor)
        assert hear(connection)["recovered"] is True
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["type"] not in FINALS:
            heard.append(hear(connection)["event"])
    assert kept(heard) == log_of(client, job_id)


# --- Two sweepers -----------------------------------------------------------------------------------------------------


def test_two_sweepers_do_each_thing_once(client: Client) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    params = {"seconds": 0, "steps": 1, "failures": 1}
    job_ids = [client.submit(params=params, maxAttempts=2, runAt=soon) for _ in range(15)]
    late = [client.submit(params=params, runAt="2099-01-01T00:00:00Z", startWithin=1) for _ in range(5)]
    for job_id in job_ids:
        assert client.finished(job_id, 40)["status"] == "COMPLETED"
        types = [each["type"] for each in log_of(client, job_id)]
        assert types == ["job.accepted", "job.started", "job.retrying", "job.started", "job.log", "job.completed"]
    for job_id in late:
        assert client.finished(job_id)["error"]["code"] == "expired"
        assert [each["type"] for each in log_of(client, job_id)] == ["job.accepted", "job.failed"]
