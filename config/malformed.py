"""Answers requests that are no HTTP, or whose head is too long, with a problem: Twisted's own answer is bare.

It also closes at once, while the rest is on its way, so that the client may never see it (RFC 9112 §9.6).
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from twisted.internet import reactor
from twisted.web import http

from jobs.api.problem_members import problem_members

LINGER_SECONDS = 2.0
"""How long the rest of a refused request is still taken and dropped."""
HTTPChannel: Any = http.HTTPChannel  # half of it carries types
twisted_reactor: Any = reactor  # a module until it is installed, for type checkers


class Channel(HTTPChannel):
    """A connection that tells its client what was wrong with a request."""

    _is_refused = False

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take what came, or drop it once the request is refused."""
        if not self._is_refused:
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take a line of the head; none of what follows a refused one is looked at."""
        if not self._is_refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take a part of the body."""
        if not self._is_refused:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Refuse a line that is longer than a whole head may be."""
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Go on to the body, if the request says once whom it is for (RFC 9112 §3.2)."""
        hosts = self.requests[-1].requestHeaders.getRawHeaders(b"host", [])
        if self._version == b"HTTP/1.1" and len(hosts) != 1:
            self._refuse(HTTPStatus.BAD_REQUEST)
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Hand the request on."""
        if not self._is_refused:
            super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 - Twisted's name
        is_too_long = self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        detail = "This is no HTTP request that could be read without doubt."
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            detail = f"The path, the query and the headers may have {self.totalHeadersSize:,} bytes together."
        self.transport.write(answer(status, detail))
        twisted_reactor.callLater(LINGER_SECONDS, self.transport.loseConnection)


def answer(status: HTTPStatus, detail: str) -> bytes:
    """Write a problem (RFC 9457) as the last answer on a connection."""
    body = json.dumps(problem_members(status, detail)).encode()
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
