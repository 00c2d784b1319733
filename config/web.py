"""The web process: `python -m config.web` serves config.asgi by daphne on HOST and PORT.

All that we ask of daphne's and Twisted's private surface is in this file, and both are pinned
(docs/decisions/daphne.md): refusing large bodies while they stream, keeping those that are taken out of memory, waiting
for clients that read slowly, forgetting requests that are over, and telling sockets of a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
from http import HTTPStatus
from io import BytesIO
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("KABAR_PROCESS", "web")

import daphne.server
from asgiref.typing import ASGI3Application
from daphne.endpoints import build_endpoint_description_strings
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web import http

from config.malformed import LINGER_SECONDS, Channel, answer

logger = logging.getLogger(__name__)
twisted_reactor: Any = reactor  # a module until it is installed, for type checkers

FORM_EXTRA_BYTES = 2 * 1024 * 1024
"""What a form may hold beside its files: the JSON part and the headers of its parts."""
SERVICE_RESTART = 1012
"""Close code "service restart" of the IANA WebSocket registry."""
MOST_SOCKET_BYTES = 64 * 1024
BODY = "kabar.body"
"""The ASGI scope's key for the file that Twisted has written a large body to."""
BODY_CHUNK_BYTES = 64 * 1024


class LimitedRequest(WebRequest):
    """A request whose body is refused as soon as it is known to be too large, before Django or the disk sees it.

    While its answer is sent in parts it is Twisted's push producer, so that it is known whether the client keeps up.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, parsePOSTFormSubmission=False)  # Django parses forms, once
        self._taken = 0
        self._is_refused = False
        self.has_room: asyncio.Event | None = None
        """Whether the client takes what is sent; None where the answer isn't in parts."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        """Refuse by the announced length; None where the body comes in chunks."""
        if length is not None and length > self._most():
            self._refuse()
        else:
            super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take a part of the body, or drop it once it is too much."""
        if self._is_refused:
            return
        self._taken += len(data)
        if self._taken > self._most():
            self.content.close()
            self._refuse()
        else:
            super().handleContentChunk(data)

    def process(self) -> Any:
        """Hand the request on, unless it was answered already.

        A body that came in chunks has a length by now; Django takes one without for none at all.
        """
        if self._is_refused:
            return None
        if self.requestHeaders.hasHeader(b"transfer-encoding"):
            self.requestHeaders.removeHeader(b"transfer-encoding")
            self.requestHeaders.setRawHeaders(b"content-length", [str(self._taken).encode()])
        return super().process()

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.body" and self.channel is not None and not self.finished:
            if not message.get("more_body", False):
                self._end_parts()
            elif self.has_room is None:
                self.has_room = asyncio.Event()
                self.has_room.set()
                self.registerProducer(self, True)
        super().handle_reply(message)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Let the application wait: what was sent waits in memory."""
        if self.has_room:
            self.has_room.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Let the application go on."""
        if self.has_room:
            self.has_room.set()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Let the application go on; nothing that it sends goes anywhere."""
        self.resumeProducing()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        """Let the application see that the client has gone."""
        self.resumeProducing()
        super().connectionLost(reason)

    def handle_exception(self, exception: Exception) -> None:
        """Answer for an application that failed; an answer that has begun is broken off, for no other can follow it.

        daphne would raise here, and with that end the look at all applications for the life of the process.
        """
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None and not self.finished:
            self._end_parts()
            self.channel.forceAbortClient()

    def _end_parts(self) -> None:
        if self.has_room is not None:
            self.unregisterProducer()
            self.resumeProducing()
            self.has_room = None

    def _most(self) -> int:
        kind = self.requestHeaders.getRawHeaders(b"content-type") or [b""]
        if kind[0].strip().lower().startswith(b"multipart/form-data"):
            return int(settings.MAX_UPLOAD_BYTES) + FORM_EXTRA_BYTES
        return int(settings.MAX_JSON_BYTES)

    def _refuse(self) -> None:
        self._is_refused = True
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"expect")  # or Twisted would ask for the body
        detail = f"The body is larger than {self._most():,} bytes."
        transport = self.channel.transport
        transport.write(answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail))
        twisted_reactor.callLater(LINGER_SECONDS, transport.loseConnection)


class LimitedFactory(HTTPFactory):
    """Makes limited requests, and writes no access log."""

    def log(self, request: Any) -> None:
        """Do nothing: Twisted would make up a line for each request, to be written nowhere."""

    def protocol(self) -> Any:
        """Make a connection."""
        return http._GenericHTTPChannelProtocol(Channel())

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = LimitedRequest
        return protocol


class Server(daphne.server.Server):
    """daphne, which tells its sockets when it stops."""

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Run the application for a request, and forget the two as soon as both are done.

        daphne looks through all requests of the last seconds once a second to find those that are.
        """
        if scope["type"] == "http" and not isinstance(protocol.content, BytesIO):
            scope[BODY], protocol.content = protocol.content, BytesIO()
        queue = super().create_application(protocol, scope)
        if queue is not None and scope["type"] == "http":
            self.connections[protocol]["application_instance"].add_done_callback(lambda _: self._forget(protocol))
        return queue

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send a part of an answer, and return when the client has taken enough of what was sent."""
        await super().handle_reply(protocol, message)
        has_room: asyncio.Event | None = getattr(protocol, "has_room", None)
        if has_room is not None:
            await has_room.wait()

    def protocol_disconnected(self, protocol: Any) -> None:
        """Note that a request is over, unless it is forgotten already."""
        if protocol in self.connections:
            super().protocol_disconnected(protocol)

    def _forget(self, protocol: Any) -> None:
        """Forget a request that was answered whole; one that failed is left to daphne, which answers and logs it."""
        details = self.connections.get(protocol)
        if details and "disconnected" in details:
            application = details["application_instance"]
            if not application.cancelled() and application.exception() is None:
                del self.connections[protocol]

    def kill_all_applications(self) -> Deferred[Any]:
        """Close each open socket with 1012, so that clients come back with jitter; then end the applications."""
        for protocol, details in list(self.connections.items()):
            details.setdefault("application_instance", _ended())
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=SERVICE_RESTART)  # autobahn's sendClose refuses this code
        ending: Deferred[Any] = super().kill_all_applications()
        return ending


class BodiesFromFiles:
    """Gives large bodies to the application as it asks for them; daphne would put them into memory whole, at once."""

    def __init__(self, app: ASGI3Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application."""
        file = scope.pop(BODY, None)
        if file is None:
            await self._app(scope, receive, send)
            return
        with file:
            await self._app(scope, _reading(file, receive), send)


def _reading(file: Any, receive: Any) -> Any:
    is_over = False

    async def receive_part() -> Any:
        nonlocal is_over
        if is_over:
            return await receive()
        await asyncio.sleep(0)  # others have their turn between two parts
        chunk = file.read(BODY_CHUNK_BYTES)
        if len(chunk) < BODY_CHUNK_BYTES:
            is_over = True
            await receive()  # daphne's own message, which is empty
        return {"type": "http.request", "body": chunk, "more_body": not is_over}

    return receive_part


def _ended() -> Any:
    """Stand in for the application of a connection that has none: daphne looks for one in each."""
    future = daphne.server.twisted_loop.create_future()
    future.set_result(None)
    return future


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from config.asgi import application

    serve(application)


def serve(application: ASGI3Application) -> None:
    """Serve an application on the HOST and PORT of the settings."""
    for status in HTTPStatus:  # Twisted doesn't know the younger ones, such as 422
        http.RESPONSES.setdefault(int(status), status.phrase.encode())
    daphne.server.HTTPFactory = LimitedFactory  # the server makes its factory by this name
    logger.info("Listening on %s:%d, known as %s", settings.HOST, settings.PORT, settings.PUBLIC_URL)
    Server(
        BodiesFromFiles(application),
        endpoints=build_endpoint_description_strings(host=settings.HOST, port=settings.PORT),
        websocket_max_message_size=MOST_SOCKET_BYTES,
        websocket_max_frame_size=MOST_SOCKET_BYTES,
        server_name="kabar",
    ).run()


if __name__ == "__main__":
    main()
