"""The web process: `python -m config.web` serves config.asgi by daphne on HOST and PORT.

All that we ask of daphne's and Twisted's private surface is in this file, and both are pinned: refusing large bodies
while they stream, and telling sockets of a restart.
"""

from __future__ import annotations

import json
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

logger = logging.getLogger(__name__)
twisted_reactor: Any = reactor  # a module until it is installed, for type checkers

FORM_EXTRA_BYTES = 2 * 1024 * 1024
"""What a form may hold beside its files: the JSON part and the headers of its parts."""
LINGER_SECONDS = 2.0
"""How long a refused body is still taken and dropped: closing at once may lose the answer (RFC 9112 §9.6)."""
SERVICE_RESTART = 1012
"""Close code "service restart" of the IANA WebSocket registry."""
MOST_SOCKET_BYTES = 64 * 1024


class LimitedRequest(WebRequest):
    """A request whose body is refused as soon as it is known to be too large, before Django or the disk sees it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, parsePOSTFormSubmission=False)  # Django parses forms, once
        self._taken = 0
        self._is_refused = False

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

    def _most(self) -> int:
        kind = self.requestHeaders.getRawHeaders(b"content-type") or [b""]
        if kind[0].strip().lower().startswith(b"multipart/form-data"):
            return int(settings.MAX_UPLOAD_BYTES) + FORM_EXTRA_BYTES
        return int(settings.MAX_JSON_BYTES)

    def _refuse(self) -> None:
        self._is_refused = True
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"expect")  # or Twisted would ask for the body
        body = json.dumps(
            {
                "type": "about:blank",
                "title": HTTPStatus.REQUEST_ENTITY_TOO_LARGE.phrase,
                "status": int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
                "detail": f"The body is larger than {self._most():,} bytes.",
                "errors": [],
            }
        ).encode()
        head = (
            f"HTTP/1.1 413 {HTTPStatus.REQUEST_ENTITY_TOO_LARGE.phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        transport = self.channel.transport
        transport.write(head.encode() + body)
        twisted_reactor.callLater(LINGER_SECONDS, transport.loseConnection)


class LimitedFactory(HTTPFactory):
    """Makes limited requests."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = LimitedRequest
        return protocol


class Server(daphne.server.Server):
    """daphne, which tells its sockets when it stops."""

    def kill_all_applications(self) -> Deferred[Any]:
        """Close each open socket with 1012, so that clients come back with jitter; then end the applications."""
        for protocol, details in list(self.connections.items()):
            details.setdefault("application_instance", _ended())
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=SERVICE_RESTART)  # autobahn's sendClose refuses this code
        ending: Deferred[Any] = super().kill_all_applications()
        return ending


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
        application,
        endpoints=build_endpoint_description_strings(host=settings.HOST, port=settings.PORT),
        websocket_max_message_size=MOST_SOCKET_BYTES,
        websocket_max_frame_size=MOST_SOCKET_BYTES,
        server_name="kabar",
    ).run()


if __name__ == "__main__":
    main()
