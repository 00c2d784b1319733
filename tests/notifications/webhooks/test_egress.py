"""The way out: what is sent, where it goes, and which connections are kept."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from notifications.webhooks import connections
from notifications.webhooks.addresses import AllowList
from notifications.webhooks.egress import Sender
from notifications.webhooks.lookup import Destination, Lookup, check_registration
from notifications.webhooks.signing import new_secret, signed_headers
from tests.notifications.webhooks.sink import OK, Script, Sink, Visitor, answering

OpenSink = Callable[[Script], Sink]
OpenSender = Callable[..., Sender]

BODY = b'{"type":"job.completed"}'


def leading_to(*addresses: tuple[str, int]) -> Lookup:
    """A resolver for which every name leads to these addresses and ports."""

    def lookup(host: str, port: int, timeout_seconds: float) -> list[Destination]:
        return [Destination(family=socket.AF_INET, socket_address=address) for address in addresses]

    return lookup


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_webhook_arrives_as_it_was_signed(open_sink: OpenSink, sender: Sender) -> None:
    sink, secret = open_sink(answering(OK)), new_secret()
    headers = signed_headers(
        secrets=[secret], event_id="0190b6f0", sent_at=datetime.now(UTC), body=BODY, version="1.2.3"
    )
    answer = sender.post(sink.url + "?a=b", BODY, headers)

    assert (answer.status_code, answer.body_start, answer.error_code) == (200, "ok", None)
    [received] = sink.received
    assert received.request_line == "POST /hook?a=b HTTP/1.1"
    assert Webhook(secret).verify(received.body, received.headers) == {"type": "job.completed"}
    assert received.headers["host"] == f"127.0.0.1:{sink.port}"
    assert received.headers["user-agent"] == "Kabar/1.2.3"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["accept-encoding"] == "identity"
    assert received.headers["content-length"] == str(len(BODY))
    assert set(received.headers) == {name.lower() for name in headers} | {
        "host",
        "accept-encoding",
        "content-length",
    }


def test_the_name_stays_in_the_host_header(open_sink: OpenSink, open_sender: OpenSender) -> None:
    sink = open_sink(answering(OK))
    sender = open_sender(lookup=leading_to(("127.0.0.1", sink.port)))
    answer = sender.post("http://Hooks.Example:8080/x", BODY, {})

    assert answer.status_code == 200
    assert sink.received[0].headers["host"] == "hooks.example:8080"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: y\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 4095\r\n\r\n" + b"x" * 4095,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_connection_is_kept_if_the_answer_was_read_to_its_end(
    open_sink: OpenSink, sender: Sender, answer: bytes
) -> None:
    sink = open_sink(answering(answer))
    statuses = {sender.post(sink.url, BODY, {}).status_code for _ in range(3)}

    assert len(statuses) == 1
    assert len(sink.received) == 3
    assert sink.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_connection_is_closed_if_more_is_left_or_the_receiver_wants_it(
    open_sink: OpenSink, sender: Sender, answer: bytes
) -> None:
    sink = open_sink(answering(answer))
    answers = [sender.post(sink.url, BODY, {}) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 200]
    assert all(len(each.body_start) <= 4096 for each in answers)
    assert sink.connections == 2


def test_the_rest_of_a_long_body_is_not_waited_for(open_sink: OpenSink, sender: Sender) -> None:
    closed = threading.Event()

    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 4096)
        if visitor.sock.recv(1) == b"":
            closed.set()

    answer = sender.post(open_sink(script).url, BODY, {})

    assert answer.body_start == "x" * 4096
    assert answer.duration_seconds < 1.5
    assert closed.wait(2)


def test_a_body_without_a_length_is_read_until_the_end(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(b"HTTP/1.1 200 OK\r\n\r\nthanks ")
        visitor.send(b"a lot")

    assert sender.post(open_sink(script).url, BODY, {}).body_start == "thanks a lot"


def test_a_kept_connection_grows_too_old(open_sink: OpenSink, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEPT_CONNECTION_SECONDS", 0.0)
    sink = open_sink(answering(OK))
    for _ in range(2):
        assert sender.post(sink.url, BODY, {}).status_code == 200

    assert sink.connections == 2


def test_a_kept_connection_is_not_used_when_its_peer_is_allowed_no_more(
    open_sink: OpenSink, open_sender: OpenSender
) -> None:
    sink = open_sink(answering(OK))
    sender = open_sender(lookup=leading_to(("127.0.0.1", sink.port)))
    first = sender.post("http://hooks.example/", BODY, {})
    sender.allow = AllowList()
    second = sender.post("http://hooks.example/", BODY, {})

    assert first.status_code == 200
    assert second.error_code == "address_refused"
    assert len(sink.received) == 1


def test_a_webhook_is_sent_once_more_if_the_kept_connection_was_just_closed(
    open_sink: OpenSink, sender: Sender
) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(OK)
        if visitor.number == 1:
            # Closed only when the second request is on its way, as no check before it could see.
            visitor.sock.recv(1)
        else:
            visitor.hang()

    sink = open_sink(script)
    answers = [sender.post(sink.url, BODY, {}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [received.connection for received in sink.received] == [1, 2]


def test_a_webhook_gets_a_new_connection_if_all_kept_ones_were_closed(open_sink: OpenSink, sender: Sender) -> None:
    both_here = threading.Barrier(2)

    def script(visitor: Visitor) -> None:
        visitor.read_request()
        if visitor.number <= 2:
            both_here.wait(5)
            visitor.send(OK)
            visitor.sock.recv(1)
        else:
            visitor.send(OK)

    sink = open_sink(script)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: sender.post(sink.url, BODY, {}), range(2)))
    answer = sender.post(sink.url, BODY, {})

    assert answer.status_code == 200
    assert sink.connections == 3


def test_a_connection_that_the_peer_closed_between_two_posts_is_replaced(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(OK)

    sink = open_sink(script)
    for _ in range(3):
        assert sender.post(sink.url, BODY, {}).status_code == 200

    assert sink.connections == 3


def test_a_webhook_is_not_sent_again_over_a_new_connection(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()

    sink = open_sink(script)
    answer = sender.post(sink.url, BODY, {})

    assert (answer.status_code, answer.error_code) == (None, "connection_closed")
    assert len(sink.received) == 1


def test_a_webhook_is_not_sent_again_once_a_byte_came(open_sink: OpenSink, sender: Sender) -> None:
    sink = open_sink(answering(OK, b"HTTP/1.1 200"))

    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(OK)
        visitor.read_request()
        visitor.send(b"HTTP/1.1 20")

    sink.script = script
    sender.post(sink.url, BODY, {})
    answer = sender.post(sink.url, BODY, {})

    assert answer.status_code is None
    assert len(sink.received) == 2
    assert sink.connections == 1


@pytest.mark.parametrize("status", [b"301", b"302", b"303", b"307", b"308"])
def test_a_redirect_is_an_answer_and_is_not_followed(open_sink: OpenSink, sender: Sender, status: bytes) -> None:
    elsewhere = open_sink(answering(OK))
    location = elsewhere.url.encode()
    sink = open_sink(answering(b"HTTP/1.1 %s Go\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)))
    answer = sender.post(sink.url, BODY, {})

    assert answer.status_code == int(status)
    assert answer.error_code is None
    assert elsewhere.connections == 0


def test_cookies_are_not_kept(open_sink: OpenSink, sender: Sender) -> None:
    sink = open_sink(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nok"))
    for _ in range(2):
        sender.post(sink.url, BODY, {})

    assert all("cookie" not in received.headers for received in sink.received)
    assert len(sink.received) == 2


def test_nothing_is_taken_from_the_environment(
    open_sink: OpenSink, open_sender: OpenSender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy, sink = open_sink(answering(OK)), open_sink(answering(OK))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    answer = open_sender().post(sink.url, BODY, {})

    assert answer.status_code == 200
    assert proxy.connections == 0
    assert "authorization" not in sink.received[0].headers


def test_retry_after_is_passed_on(open_sink: OpenSink, sender: Sender) -> None:
    sink = open_sink(answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 4\r\n\r\nbusy"))
    answer = sender.post(sink.url, BODY, {})

    assert (answer.status_code, answer.retry_after_seconds, answer.body_start) == (503, 120.0, "busy")


def test_an_early_answer_to_a_large_body_is_heard(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.sock.recv(1024)
        visitor.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        visitor.sock.shutdown(socket.SHUT_WR)
        visitor.hang()

    assert sender.post(open_sink(script).url, b"x" * 100_000, {}).status_code == 413


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/"],
)
def test_a_private_url_is_refused_at_each_attempt(open_sender: OpenSender, url: str) -> None:
    answer = open_sender(allow="").post(url, BODY, {})

    assert (answer.status_code, answer.error_code) == (None, "address_refused")
    assert answer.duration_seconds < 2.0


def test_a_bad_url_is_an_answer_too(sender: Sender) -> None:
    assert sender.post("ftp://hooks.example/", BODY, {}).error_code == "invalid_url"


def test_a_name_that_turns_private_after_its_registration_is_refused(
    open_sink: OpenSink, open_sender: OpenSender
) -> None:
    sink = open_sink(answering(OK))
    answers = iter(["8.8.8.8", "127.0.0.1"])

    def rebinding(host: str, port: int, timeout_seconds: float) -> list[Destination]:
        return [Destination(family=socket.AF_INET, socket_address=(next(answers), sink.port))]

    url = "http://rebound.example/"
    check_registration(url, AllowList(), lookup=rebinding)
    answer = open_sender(allow="", lookup=rebinding).post(url, BODY, {})

    assert answer.error_code == "address_refused"
    assert "127.0.0.1" not in (answer.error or "")
    assert sink.connections == 0


def test_a_name_that_leads_to_a_private_address_among_others_is_refused(
    open_sink: OpenSink, open_sender: OpenSender
) -> None:
    sink = open_sink(answering(OK))
    sender = open_sender(allow="", lookup=leading_to(("8.8.8.8", 443), ("127.0.0.1", sink.port)))

    assert sender.post("http://hooks.example/", BODY, {}).error_code == "address_refused"
    assert sink.connections == 0


def test_the_peer_that_was_really_reached_is_judged(open_sink: OpenSink, open_sender: OpenSender) -> None:
    sink = open_sink(answering(OK))
    # Linux connects 0.0.0.0 to the machine itself, and tells so afterwards.
    answer = open_sender(allow="0.0.0.0/32").post(f"http://0.0.0.0:{sink.port}/", BODY, {})

    assert answer.error_code == "address_refused"
    assert sink.received == []


def test_the_next_address_is_tried_if_one_refuses(open_sink: OpenSink, open_sender: OpenSender) -> None:
    sink = open_sink(answering(OK))
    sender = open_sender(lookup=leading_to(("127.0.0.1", closed_port()), ("127.0.0.1", sink.port)))

    assert sender.post("http://hooks.example/", BODY, {}).status_code == 200


def test_an_address_that_hangs_costs_only_its_share_of_the_connect_time(
    open_sink: OpenSink, open_sender: OpenSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.6)
    sink = open_sink(answering(OK))
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        callers = _fill_backlog(full)
        sender = open_sender(lookup=leading_to(full.getsockname(), ("127.0.0.1", sink.port)))
        answer = sender.post("http://hooks.example/", BODY, {})
        alone = open_sender(lookup=leading_to(full.getsockname())).post("http://hooks.example/", BODY, {})
        for caller in callers:
            caller.close()

    assert answer.status_code == 200
    assert 0.25 <= answer.duration_seconds < 2.0
    assert alone.error_code == "connect_timeout"
    assert 0.55 <= alone.duration_seconds < 2.0


def _fill_backlog(listener: socket.socket) -> list[socket.socket]:
    """Connect without being accepted until the system takes no more connections."""
    callers: list[socket.socket] = []
    while True:
        caller = socket.socket()
        callers.append(caller)
        caller.settimeout(0.1)
        try:
            caller.connect(listener.getsockname())
        except TimeoutError:
            return callers


def test_a_closed_port_is_told(sender: Sender) -> None:
    answer = sender.post(f"http://127.0.0.1:{closed_port()}/", BODY, {})

    assert answer.error_code == "connect_refused"
    assert "127.0.0.1" not in (answer.error or "")


def test_a_name_without_an_answer_costs_no_more_than_the_deadline(open_sender: OpenSender) -> None:
    asked_for: list[float] = []

    def lookup(host: str, port: int, timeout_seconds: float) -> list[Destination]:
        asked_for.append(timeout_seconds)
        raise TimeoutError

    answer = open_sender(lookup=lookup).post("http://hooks.example/", BODY, {}, deadline_seconds=0.5)

    assert answer.error_code == "timeout"
    assert asked_for[0] <= 0.5


def test_threads_share_a_sender(open_sink: OpenSink, sender: Sender) -> None:
    sink = open_sink(answering(OK))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: sender.post(sink.url, BODY, {}), range(200)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(sink.received) == 200
    assert sink.connections <= 16


def test_more_hosts_than_are_kept_still_get_their_webhooks(open_sink: OpenSink, open_sender: OpenSender) -> None:
    sink = open_sink(answering(OK))
    sender = open_sender(kept_hosts=2, lookup=leading_to(("127.0.0.1", sink.port)))
    started_at = time.monotonic()
    for number in range(6):
        assert sender.post(f"http://hooks{number % 3}.example/", BODY, {}).status_code == 200

    assert time.monotonic() - started_at < 5
