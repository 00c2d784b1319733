"""Bad requests as bytes on the wire: each gets a problem that says what is wrong, and makes nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from tests.e2e.stack import Client, Stack

JSON = "Content-Type: application/json\r\n"
JOB = '{"kind":"demo.countdown"}'
LENGTH = f"Content-Length: {len(JOB)}\r\n"
LONGEST_HEAD = 16_384


class Wire:
    """A user's bytes."""

    def __init__(self, stack: Stack, client: Client) -> None:
        self.stack = stack
        self.client = client

    def request(self, line: str, headers: str = "", body: str = "", host: str = "Host: 127.0.0.1\r\n") -> bytes:
        """Write a request with the user's token."""
        credential = f"Authorization: Bearer {self.client.token}\r\n"
        return f"{line} HTTP/1.1\r\n{host}{credential}{headers}\r\n{body}".encode("latin-1")

    def send(self, *parts: bytes, pause_seconds: float = 0) -> tuple[int, dict[str, str], bytes]:
        """Send bytes, part by part, and read the answer."""
        address = urlsplit(self.stack.url)
        assert address.hostname
        with closing(socket.create_connection((address.hostname, address.port or 80), timeout=20)) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_seconds)
            response = HTTPResponse(connection)
            response.begin()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def count(self) -> int:
        """Count the user's jobs, up to a page."""
        return len(self.client.get("/api/jobs?limit=200").json()["items"])


@pytest.fixture
def wire(stack: Stack) -> Iterator[Wire]:
    """Give a user's wire, over which no job may be made."""
    made = Wire(stack, stack.client("citra"))
    before = made.count()
    yield made
    assert made.count() == before


def check_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> None:
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/problem+json"
    problem = json.loads(answer[2])
    assert problem["status"] == status
    assert problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 25\r\nContent-Length: 5\r\n",
        "Content-Length: 25\r\nContent-Length: 25\r\n",
        "Content-Length: 25, 25\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +25\r\n",
        "Content-Length: 0x19\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 25\r\n",
        "Content-Length: 25\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "no colon\r\n",
        "X: a\0b\r\n",
        "Host: other.example\r\n",
    ],
)
def test_a_request_whose_end_or_target_is_in_doubt_is_refused(wire: Wire, headers: str) -> None:
    body = f"19\r\n{JOB}\r\n0\r\n\r\n" if "chunked" in headers else JOB
    check_problem(wire.send(wire.request("POST /api/jobs", JSON + headers, body)), 400)


def test_what_follows_a_refused_request_is_not_looked_at(wire: Wire) -> None:
    smuggled = wire.request("POST /api/jobs", JSON + LENGTH, JOB)
    check_problem(wire.send(wire.request("POST /api/jobs", JSON + "Content-Length: 0, 0\r\n") + smuggled), 400)


@pytest.mark.parametrize("chunks", [f"zz\r\n{JOB}\r\n0\r\n\r\n", f"19\r\n{JOB}x\r\n0\r\n\r\n", "-1\r\n\r\n"])
def test_broken_chunks_are_refused(wire: Wire, chunks: str) -> None:
    check_problem(wire.send(wire.request("POST /api/jobs", JSON + "Transfer-Encoding: chunked\r\n", chunks)), 400)


@pytest.mark.parametrize("line", ["GET /api/jobs HTTP/2.0", "GET", "GET /api/jobs\0 HTTP/1.1", "\x16\x03\x01\x02", "é"])
def test_what_is_no_http_is_refused(wire: Wire, line: str) -> None:
    check_problem(wire.send(f"{line}\r\nHost: 127.0.0.1\r\n\r\n".encode("latin-1")), 400)


def test_a_request_without_a_host_is_refused(wire: Wire) -> None:
    check_problem(wire.send(wire.request("GET /api/jobs", host="")), 400)


@pytest.mark.parametrize("host", ["evil.example", "a b", "127.0.0.1:port", "[::1"])
def test_a_host_that_is_not_ours_is_refused(wire: Wire, host: str) -> None:
    check_problem(wire.send(wire.request("GET /api/jobs", host=f"Host: {host}\r\n")), 400)


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET /api/jobs", f"X: {'y' * 100_000}\r\n"),
        ("GET /api/jobs", "".join(f"X-{place}: y\r\n" for place in range(3000))),
        (f"GET /api/jobs?tag={'y' * 100_000}", ""),
        (f"GET /{'y' * LONGEST_HEAD}", ""),
    ],
)
def test_a_head_that_is_too_long_is_431(wire: Wire, line: str, headers: str) -> None:
    check_problem(wire.send(wire.request(line, headers)), 431)


def test_a_body_that_is_announced_beyond_measure_is_413(wire: Wire) -> None:
    check_problem(wire.send(wire.request("POST /api/jobs", f"{JSON}Content-Length: {'9' * 30}\r\n", JOB)), 413)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (JSON + "Content-Length: 0\r\n", "", 400),
        (JSON, "", 400),
        (JSON + "Content-Length: 1\r\n", "{", 400),
        ("Content-Type: application/json; charset=utf-16\r\nContent-Length: 4\r\n", "\xff\xfe{\0", 400),
        (LENGTH, JOB, 415),
        ("Content-Type: text/plain\r\n" + LENGTH, JOB, 415),
        ("Content-Type: ;;;\r\n" + LENGTH, JOB, 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n" + LENGTH, JOB, 415),
        (JSON + "Content-Encoding: gzip\r\n" + LENGTH, JOB, 415),
        (JSON + "Content-Encoding: br, gzip\r\n" + LENGTH, JOB, 415),
        ("Content-Type: multipart/form-data\r\n" + LENGTH, JOB, 400),
        ("Content-Type: multipart/form-data; boundary=x\r\n" + LENGTH, JOB, 400),
        ("Content-Type: multipart/form-data; boundary=\r\n" + LENGTH, JOB, 400),
        (f"Content-Type: multipart/form-data; boundary={'x' * 300}\r\n" + LENGTH, JOB, 415),
        (JSON + "Accept: text/csv\r\n" + LENGTH, JOB, 406),
        (JSON + "Accept: ;;,/\r\n" + LENGTH, JOB, 406),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(wire: Wire, headers: str, body: str, status: int) -> None:
    check_problem(wire.send(wire.request("POST /api/jobs", headers, body)), status)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /api/jobs/", 404),
        ("POST /api/jobs/", 404),
        ("GET /api/jobs/%00", 404),
        ("GET /api/jobs/../../etc/passwd", 404),
        ("GET /api/jobs/not-an-id", 404),
        ("GET /api/jobs/01A213A5-1396-73A8-928B-CE108F158C3B0", 404),
        ("GET /api/jobs/status/%7Bid%7D", 404),
        ("FROB /api/jobs", 405),
        ("TRACE /api/jobs", 405),
        ("PUT /api/jobs", 405),
        ("DELETE /api/jobs", 405),
        ("POST /api/kinds", 405),
        ("PUT /api/schema", 405),
        ("GET /api/jobs?tag=%00", 422),
        ("GET /api/jobs?limit=99999999999999999999", 422),
        ("GET /api/jobs?colour=red", 422),
        ("GET /api/jobs?" + "&".join(["tag=a"] * 1200), 413),
    ],
)
def test_a_target_that_is_none_is_refused(wire: Wire, line: str, status: int) -> None:
    check_problem(wire.send(wire.request(line, "Content-Length: 0\r\n" if line.startswith("P") else "")), status)


def test_a_bad_bearer_is_told_how_to_come_in(wire: Wire) -> None:
    for credential in ("Bearer \xc3\xa9\xff", "Bearer", "Basic YTpi", "Bearer a b", f"Bearer {'x' * 10_000}"):
        head = f"GET /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {credential}\r\n\r\n"
        answer = wire.send(head.encode("latin-1"))
        check_problem(answer, 401)
        assert answer[1]["www-authenticate"].startswith("Bearer")


def test_head_and_options_tell_and_make_nothing(wire: Wire) -> None:
    with closing(socket.create_connection((urlsplit(wire.stack.url).hostname, urlsplit(wire.stack.url).port))) as raw:
        raw.sendall(wire.request("HEAD /api/jobs", "Connection: close\r\n"))
        head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    status, headers, _ = wire.send(wire.request("OPTIONS /api/jobs"))
    assert (status, headers["allow"]) == (200, "GET, POST, HEAD, OPTIONS")


def test_a_body_that_comes_slowly_holds_nobody_up_and_is_read_whole(stack: Stack) -> None:
    wire = Wire(stack, stack.client("dewi"))
    request = wire.request("POST /api/jobs", JSON + LENGTH, JOB)
    slow = [socket.create_connection((urlsplit(stack.url).hostname, urlsplit(stack.url).port)) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(request[:-5])
        begun = time.monotonic()
        assert wire.client.get("/api/kinds").status_code == 200
        assert time.monotonic() - begun < 5
        assert wire.send(request[:-9], request[-9:-2], request[-2:], pause_seconds=0.3)[0] == 202
    finally:
        for connection in slow:
            connection.close()
    assert wire.count() == 1


def test_a_million_tags_are_refused(wire: Wire) -> None:
    response = wire.client.post("/api/jobs", {"kind": "demo.countdown", "tags": [""] * 250_000})
    assert response.status_code == 422
    assert len(response.content) < 100_000
    response = wire.client.post("/api/jobs", {"kind": "demo.countdown", "tags": ["x"] * 1_000_000})
    assert response.status_code == 413
