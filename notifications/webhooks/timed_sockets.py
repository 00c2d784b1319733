"""Sockets that never take longer than their exchange may, however slowly the other side drips.

A timeout alone starts anew with each byte received. These sockets set what is left of the deadline before
each operation; no other thread watches them.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from notifications.webhooks.addresses import AllowList
from notifications.webhooks.failures import AnswerTooLarge
from notifications.webhooks.lookup import Lookup

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_RECEIVED_BYTES = 64 * 1024
"""Of one answer: status line, headers, interim answers, chunk sizes, trailers and the body's start."""


@dataclass(kw_only=True)
class Exchange:
    """One request and its answer: what its connection and socket must keep to, and what they saw."""

    deadline: float
    """On the clock of `time.monotonic`."""
    allow: AllowList
    lookup: Lookup
    on_new_connection: bool = False
    """Whether a connection was opened for it; else it went over a kept one."""
    received_bytes: int = 0

    def remaining_seconds(self) -> float:
        """What is left of the deadline.

        Raises:
            TimeoutError: nothing.
        """
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the deadline of the exchange is over")
        return remaining

    def count_received(self, count: int) -> None:
        """Raises: AnswerTooLarge."""
        self.received_bytes += count
        if self.received_bytes > MAX_RECEIVED_BYTES:
            limit = f"{MAX_RECEIVED_BYTES // 1024} KiB"
            raise AnswerTooLarge(f"The answer's head is over {limit}. Answer with a status and no more.")


class TimedSocket(socket.socket):
    """A socket that keeps to its exchange's deadline and counts what it receives.

    The operations of CPython that move several pieces (sendall, a TLS read) hold one timeout over the whole.
    """

    exchange: Exchange | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        self.hold_to_deadline()
        received = super().recv(buflen, flags)
        self._count(len(received))
        return received

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        self.hold_to_deadline()
        count = super().recv_into(buffer, nbytes or 0, flags)
        self._count(count)
        return count

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self.hold_to_deadline()
        return super().send(data, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        self.hold_to_deadline()
        super().sendall(data, flags)

    def hold_to_deadline(self) -> None:
        """Raises: TimeoutError."""
        if self.exchange is not None:
            self.settimeout(self.exchange.remaining_seconds())

    def _count(self, received: int) -> None:
        if self.exchange is not None:
            self.exchange.count_received(received)


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same under TLS; `SSLContext.sslsocket_class` makes them."""


@cache
def trusting_context(ca_file: str | None = None) -> ssl.SSLContext:
    """The TLS context of all connections: reading the certificates for each costs more than a delivery.

    Args:
        ca_file: certificates to trust beside certifi's and the system's.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.sslsocket_class = TimedTlsSocket
    return context
