"""A receiver of webhooks on real sockets, which does to its sender whatever a script says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP

DRIP_SECONDS = 0.05
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request, as it came over the wire."""

    request_line: str
    headers: dict[str, str]
    """By name in small letters."""
    body: bytes
    connection: int
    """The number of its connection, from 1."""


@dataclass
class Visitor:
    """One connection to the sink, for a script to play with."""

    sink: Sink
    sock: socket.socket
    number: int
    unread: bytes = b""

    def read_request(self) -> bool:
        """Read one request into the sink's list; False if the sender has closed."""
        while b"\r\n\r\n" not in self.unread:
            if not self._read_more():
                return False
        head, _, rest = self.unread.partition(b"\r\n\r\n")
        request_line, _, header_lines = head.partition(b"\r\n")
        message = BytesParser(policy=HTTP).parsebytes(header_lines + b"\r\n\r\n")
        headers = {name.lower(): value for name, value in message.items()}
        length = int(headers["content-length"])
        self.unread = rest
        while len(self.unread) < length:
            if not self._read_more():
                return False
        body, self.unread = self.unread[:length], self.unread[length:]
        received = Received(
            request_line=request_line.decode("ascii"), headers=headers, body=body, connection=self.number
        )
        self.sink.received.append(received)
        return True

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: Iterable[bytes]) -> None:
        """Send pieces slowly until the sender gives up or the test is over."""
        for piece in data:
            if self.sink.stopping.wait(DRIP_SECONDS):
                return
            self.send(piece)

    def flood(self, chunk: bytes, at_most: int) -> None:
        """Send a chunk again and again until the sender gives up."""
        for _ in range(at_most // len(chunk)):
            self.send(chunk)
            self.sink.flooded_bytes += len(chunk)

    def hang(self) -> None:
        """Do nothing until the sender gives up or the test is over."""
        while not self.sink.stopping.is_set():
            self.sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if not self.sock.recv(65536):
                    return

    def _read_more(self) -> bool:
        more = self.sock.recv(65536)
        self.unread += more
        return bool(more)


Script = Callable[[Visitor], None]


def answering(*answers: bytes) -> Script:
    """Give each request of a connection the next answer, the last one for ever."""

    def script(visitor: Visitor) -> None:
        for answer in answers:
            if not visitor.read_request():
                return
            visitor.send(answer)
        while visitor.read_request():
            visitor.send(answers[-1])

    return script


@dataclass
class Sink:
    """The receiver: a thread that accepts, and one for each connection."""

    script: Script
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    flooded_bytes: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._visits: list[tuple[Visitor, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def stop(self) -> None:
        self.stopping.set()
        _wake(self._listener)
        self._accepting.join(5)
        self._listener.close()
        for visitor, thread in self._visits:
            _wake(visitor.sock)
            thread.join(5)

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            visitor = Visitor(sink=self, sock=sock, number=self.connections)
            thread = threading.Thread(target=self._visit, args=(visitor,))
            self._visits.append((visitor, thread))
            thread.start()

    def _visit(self, visitor: Visitor) -> None:
        # The sender closes in the middle of many a script: that is what the script is for.
        with visitor.sock, contextlib.suppress(OSError):
            visitor.sock.settimeout(5)
            visitor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.script(visitor)


def _wake(sock: socket.socket) -> None:
    """End the call that another thread stands in."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
