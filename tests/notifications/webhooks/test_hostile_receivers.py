"""Receivers that mean harm: none holds a thread past the deadline or fills the memory."""

from __future__ import annotations

import gzip
import itertools
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifications.webhooks import egress
from notifications.webhooks.egress import Sender
from tests.notifications.webhooks.sink import OK, Script, Sink, Visitor

OpenSink = Callable[[Script], Sink]

BODY = b'{"type":"job.completed"}'
DEADLINE_SECONDS = 0.4
SLACK_SECONDS = 1.0
"""For a busy machine; each drip would go on for 10 s."""
MAX_MEMORY_BYTES = 1024 * 1024
CHUNK = b"x" * 65536
HEAD = b"HTTP/1.1 200 OK\r\n"


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def dripping(first: bytes, drips: Callable[[], itertools.cycle[bytes] | list[bytes]]) -> Script:
    """Answer with something at once, and with the rest slowly and for ever."""

    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(first)
        visitor.drip(itertools.islice(drips(), 200))

    return script


def endless(*pieces: bytes) -> Callable[[], itertools.cycle[bytes]]:
    return lambda: itertools.cycle(pieces)


def hanging(visitor: Visitor) -> None:
    visitor.read_request()
    visitor.hang()


def deaf(visitor: Visitor) -> None:
    visitor.sink.stopping.wait(5)


WITHOUT_A_STATUS: dict[str, Script] = {
    "no answer": hanging,
    "no reading": deaf,
    "status line": dripping(b"", lambda: one_by_one(b"HTTP/1.1 200 " + b"O" * 1000)),
    "headers": dripping(HEAD, endless(b"X-A: b\r\n")),
    "one header": dripping(HEAD + b"X-A: ", endless(b"b")),
    "interim answers": dripping(b"", endless(b"HTTP/1.1 100 Continue\r\n\r\n")),
}

WITH_A_STATUS: dict[str, Script] = {
    "body": dripping(HEAD + b"Content-Length: 9999\r\n\r\n", endless(b"x")),
    "body without length": dripping(HEAD + b"\r\n", endless(b"x")),
    "chunks": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", endless(b"1\r\nx\r\n")),
    "chunk size": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", endless(b"0")),
    "chunk extension": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", endless(b"x")),
    "trailers": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless(b"X: y\r\n")),
    "silence": dripping(HEAD + b"Content-Length: 9999\r\n\r\n", lambda: [b"x"] + [b""] * 199),
}


@pytest.mark.parametrize("script", WITHOUT_A_STATUS.values(), ids=WITHOUT_A_STATUS.keys())
def test_no_drip_before_the_status_outlives_the_deadline(open_sink: OpenSink, sender: Sender, script: Script) -> None:
    started_at = time.monotonic()
    answer = sender.post(open_sink(script).url, b"x" * 8_000_000, {}, deadline_seconds=DEADLINE_SECONDS)

    assert time.monotonic() - started_at <= DEADLINE_SECONDS + SLACK_SECONDS
    assert (answer.status_code, answer.error_code) == (None, "timeout")
    assert answer.duration_seconds >= DEADLINE_SECONDS


def test_a_kept_connection_that_stops_reading_is_held_to_the_deadline_too(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(OK)
        deaf(visitor)

    sink = open_sink(script)
    assert sender.post(sink.url, BODY, {}).status_code == 200
    answer = sender.post(sink.url, b"x" * 8_000_000, {}, deadline_seconds=DEADLINE_SECONDS)

    assert answer.error_code == "timeout"
    assert answer.duration_seconds <= DEADLINE_SECONDS + SLACK_SECONDS
    assert sink.connections == 1


@pytest.mark.parametrize("script", WITH_A_STATUS.values(), ids=WITH_A_STATUS.keys())
def test_no_drip_of_the_body_outlives_the_deadline_and_the_status_counts(
    open_sink: OpenSink, sender: Sender, script: Script
) -> None:
    url = open_sink(script).url
    started_at = time.monotonic()
    answer = sender.post(url, BODY, {}, deadline_seconds=DEADLINE_SECONDS)

    assert time.monotonic() - started_at <= DEADLINE_SECONDS + SLACK_SECONDS
    assert answer.status_code == 200


def test_a_slow_body_is_given_up_long_before_the_deadline(
    open_sink: OpenSink, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "BODY_SECONDS", 0.3)
    answer = sender.post(open_sink(WITH_A_STATUS["body"]).url, BODY, {})

    assert answer.status_code == 200
    assert 0.3 <= answer.duration_seconds <= 0.3 + SLACK_SECONDS
    assert answer.body_start.startswith("xx")


def flooding(head: bytes, chunk: bytes = CHUNK) -> Script:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(head)
        visitor.flood(chunk, at_most=100_000_000)

    return script


FLOODS: dict[str, tuple[Script, int | None]] = {
    "status line": (flooding(b"HTTP/1.1 200 "), None),
    "one header": (flooding(HEAD + b"X: "), None),
    "headers": (flooding(HEAD, (b"X: " + b"y" * 1000 + b"\r\n") * 64), None),
    "small headers": (flooding(HEAD, b"X:y\r\n" * 10_000), None),
    "interim answers": (flooding(b"", b"HTTP/1.1 100 C\r\nX: y\r\n\r\n" * 2000), None),
    "body": (flooding(HEAD + b"Content-Length: 999999999\r\n\r\n"), 200),
    "body without length": (flooding(HEAD + b"\r\n"), 200),
    "chunk": (flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3b9aca00\r\n"), 200),
    "chunk size": (flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536), 200),
    "trailers": (flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 10_000), 200),
    "body of a redirect": (flooding(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"), 302),
}


@pytest.mark.parametrize(("script", "status_code"), FLOODS.values(), ids=FLOODS.keys())
def test_no_flood_is_read_further_than_needed(
    open_sink: OpenSink, sender: Sender, script: Script, status_code: int | None
) -> None:
    sink = open_sink(script)
    tracemalloc.start()
    answer = sender.post(sink.url, BODY, {}, deadline_seconds=5.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.status_code == status_code
    assert (answer.error_code is None) == (status_code is not None)
    assert answer.duration_seconds < 3.0
    assert len(answer.body_start) <= 4096
    assert peak < MAX_MEMORY_BYTES
    sink.stop()
    assert sink.flooded_bytes < 90_000_000


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found"])
def test_a_compressed_bomb_is_not_inflated(open_sink: OpenSink, sender: Sender, status: bytes) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)

    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(b"HTTP/1.1 %s\r\nLocation: /\r\nContent-Encoding: gzip\r\n" % status)
        visitor.send(b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb)

    sink = open_sink(script)
    tracemalloc.start()
    answer = sender.post(sink.url, BODY, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.status_code == int(status.split()[0])
    assert answer.body_start == "[gzip, not shown]"
    assert peak < MAX_MEMORY_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    ],
)
def test_what_is_no_http_is_told(open_sink: OpenSink, sender: Sender, answer: bytes) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(answer)

    result = sender.post(open_sink(script).url, BODY, {}, deadline_seconds=2.0)

    assert (result.status_code, result.error_code) == (None, "bad_answer")


def test_a_body_that_breaks_off_leaves_the_status(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(HEAD + b"Content-Length: 100\r\n\r\npart")

    answer = sender.post(open_sink(script).url, BODY, {})

    assert (answer.status_code, answer.body_start, answer.error_code) == (200, "part", None)


pieces = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 ",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: ",
        b"Content-Encoding: gzip\r\n",
        b"Retry-After: ",
        b"Connection: keep-alive\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"-1",
        b"5",
        b"ffffffffffffffff",
        b"9" * 5000,
        b": ",
        b" folded",
        b"\xff\xfe",
    ]
)


def test_whatever_comes_back_is_an_answer(open_sink: OpenSink, sender: Sender) -> None:
    sink = open_sink(hanging)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(pieces | st.binary(max_size=20), max_size=12).map(b"".join))
    def check(answer: bytes) -> None:
        def script(visitor: Visitor) -> None:
            visitor.read_request()
            visitor.send(answer)

        sink.script = script
        result = sender.post(sink.url, BODY, {}, deadline_seconds=5.0)

        assert (result.status_code is None) == (result.error_code is not None)
        assert result.duration_seconds < 3.0

    check()


def test_the_sender_is_well_after_all_that(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(b"garbage\r\n" if visitor.number % 2 else OK)

    sink = open_sink(script)
    statuses = [sender.post(sink.url, BODY, {}).status_code for _ in range(4)]

    assert statuses == [None, 200, None, 200]
