"""Many WebSocket clients in one process, and light: the protocol of the `websockets` package without its tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

OPENING_AT_ONCE = 20
TIMEOUT_SECONDS = 30.0
EVENT = b'{"type":"event"'


class Crowd:
    """Some sockets that all get the same events.

    Args:
        url: of the door.
        headers: of the handshake.
        hello: what each socket says first, answered by one message; empty where nothing is to be said.
    """

    def __init__(self, url: str, headers: Mapping[str, str], hello: str = "") -> None:
        self._uri = parse_uri(url)
        self._headers = headers
        self._hello = hello
        self._sockets: list[_Socket] = []
        self._waiting = 0
        self._text = b""
        self._all_have_it: asyncio.Future[float] | None = None

    @property
    def text(self) -> bytes:
        """The last event, as it came."""
        return self._text

    async def grow(self, count: int) -> None:
        """Open sockets until there are so many."""
        limit = asyncio.Semaphore(OPENING_AT_ONCE)

        async def open_one() -> None:
            async with limit:
                socket = _Socket(self, ClientProtocol(self._uri), self._headers, self._hello)
                await asyncio.get_running_loop().create_connection(lambda: socket, self._uri.host, self._uri.port)
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await socket.is_ready
                self._sockets.append(socket)

        await asyncio.gather(*(open_one() for _ in range(count - len(self._sockets))))

    def expect(self) -> asyncio.Future[float]:
        """Begin to wait for one event; the answer is the monotonic time at which the last socket had it."""
        self._waiting, self._text = len(self._sockets), b""
        self._all_have_it = asyncio.get_running_loop().create_future()
        return self._all_have_it

    def take(self, text: bytes) -> None:
        """Count an event that came to a socket."""
        if self._all_have_it is None or self._all_have_it.done():
            return
        if self._text and text != self._text:
            self._all_have_it.set_exception(ValueError("two sockets were told different things"))
            return
        self._text = text
        self._waiting -= 1
        if not self._waiting:
            self._all_have_it.set_result(time.monotonic())

    def close(self) -> None:
        """Drop all sockets."""
        for each in self._sockets:
            each.drop()


class _Socket(asyncio.Protocol):
    def __init__(self, crowd: Crowd, protocol: ClientProtocol, headers: Mapping[str, str], hello: str) -> None:
        self._crowd = crowd
        self._protocol = protocol
        self._headers = headers
        self._hello = hello
        self._transport: asyncio.Transport | None = None
        self.is_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        request = self._protocol.connect()
        request.headers.update(self._headers)
        self._protocol.send_request(request)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            match event:
                case Response():
                    self._greet()
                case Frame(opcode=Opcode.TEXT, fin=True, data=payload) if (text := bytes(payload)).startswith(EVENT):
                    self._crowd.take(text)
                case Frame(opcode=Opcode.TEXT) if not self.is_ready.done():
                    self.is_ready.set_result(None)
                case _:
                    continue
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_ready.done():
            self.is_ready.set_exception(exc or ConnectionError("the server closed the socket"))

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _greet(self) -> None:
        if self._protocol.handshake_exc is not None:
            self.is_ready.set_exception(self._protocol.handshake_exc)
        elif self._hello:
            self._protocol.send_text(self._hello.encode())
        else:
            self.is_ready.set_result(None)

    def _write(self) -> None:
        if self._transport is not None:
            for piece in self._protocol.data_to_send():
                self._transport.write(piece)
