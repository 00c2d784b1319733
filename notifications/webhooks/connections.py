"""Connections that go only where webhooks may go.

urllib3 and requests stay in charge of HTTP; three of their seams are used. A connection resolves, checks and
connects by itself (`_new_conn`), so that the address judged is the address connected to, while Host, SNI and
certificate check keep the name. The pools hand each connection its exchange (`_make_request`). The adapter
takes its pools from here and nothing from the environment, and keeps no cookies.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest, Response
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout

from notifications.webhooks.addresses import check_address
from notifications.webhooks.failures import AddressRefused, ConnectFailed, ConnectRefused, ConnectTimedOut
from notifications.webhooks.lookup import Destination, peer_address, resolve
from notifications.webhooks.timed_sockets import Exchange, TimedSocket
from notifications.webhooks.urls import Target

LOOKUP_SECONDS = 5.0
CONNECT_SECONDS = 5.0
"""For all addresses of a host together."""
MAX_ADDRESSES_TRIED = 8
KEPT_CONNECTION_SECONDS = 60.0


class ExchangeTimeout(Timeout):
    """Carries the exchange through requests and urllib3 to the connection; the sockets keep the time."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(connect=CONNECT_SECONDS, read=None)
        self.exchange = exchange

    def clone(self) -> ExchangeTimeout:
        return ExchangeTimeout(self.exchange)


class GuardedHttpConnection(HTTPConnection):
    """A connection that checks where it goes. `begin` must be called before each request."""

    exchange: Exchange
    connected_at: float

    def begin(self, exchange: Exchange) -> None:
        """Take on an exchange; a kept connection that may not serve it is closed and will be opened anew."""
        self.exchange = exchange
        if isinstance(self.sock, TimedSocket):
            if self._may_serve_again(self.sock):
                self.sock.exchange = exchange
            else:
                self.close()

    def connect(self) -> None:
        super().connect()
        self.connected_at = time.monotonic()
        # Under TLS it is another socket than the one that `_new_conn` made.
        if isinstance(self.sock, TimedSocket):
            self.sock.exchange = self.exchange

    def _may_serve_again(self, sock: TimedSocket) -> bool:
        if time.monotonic() - self.connected_at > KEPT_CONNECTION_SECONDS:
            return False
        try:
            self._check_peer(sock)
        except (AddressRefused, OSError):
            return False
        return True

    def _new_conn(self) -> socket.socket:
        exchange = self.exchange
        exchange.on_new_connection = True
        destinations = resolve(
            self._dns_host,
            self.port,
            exchange.allow,
            lookup=exchange.lookup,
            timeout_seconds=min(LOOKUP_SECONDS, exchange.remaining_seconds()),
        )[:MAX_ADDRESSES_TRIED]
        give_up_at = min(time.monotonic() + CONNECT_SECONDS, exchange.deadline)
        failure: OSError = TimeoutError()
        for tried, destination in enumerate(destinations):
            share = (give_up_at - time.monotonic()) / (len(destinations) - tried)
            if share <= 0:
                break
            try:
                return self._connect_to(destination, timeout_seconds=share)
            except OSError as error:
                failure = error
        raise _connect_failure(failure) from failure

    def _connect_to(self, destination: Destination, *, timeout_seconds: float) -> TimedSocket:
        sock = TimedSocket(destination.family, socket.SOCK_STREAM)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(timeout_seconds)
            sock.connect(destination.socket_address)
            self._check_peer(sock)
            sock.exchange = self.exchange
            sock.hold_to_deadline()  # a TLS handshake begins with the timeout that it finds
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_peer(self, sock: socket.socket) -> None:
        """Raises: AddressRefused, OSError (it has no peer any more)."""
        if not self.exchange.allow.allows_host(self._dns_host, self.port):
            check_address(peer_address(sock.getpeername()), self.port, self.exchange.allow)


class GuardedHttpsConnection(GuardedHttpConnection, HTTPSConnection):
    """The same under TLS: HTTPSConnection wraps the socket that `_new_conn` gives."""


def _connect_failure(failure: OSError) -> ConnectFailed:
    if isinstance(failure, TimeoutError):
        return ConnectTimedOut("The host took no connection in time. Check that it runs, and its firewall.")
    if isinstance(failure, ConnectionRefusedError):
        return ConnectRefused("The host refused the connection. Check that the receiver runs and the port is right.")
    return ConnectFailed("The host can't be reached from here. Check its address.")


class GuardedHttpPool(HTTPConnectionPool):
    """Hands each connection the exchange that it is used for."""

    ConnectionCls = GuardedHttpConnection

    def _make_request(self, conn: Any, *args: Any, **options: Any) -> BaseHTTPResponse:
        # Any: a signature of fifteen parameters that are only passed on.
        conn.begin(options["timeout"].exchange)
        return super()._make_request(conn, *args, **options)


class GuardedHttpsPool(GuardedHttpPool, HTTPSConnectionPool):
    """The same under TLS."""

    ConnectionCls = GuardedHttpsConnection


class TargetRequest(PreparedRequest):
    """A POST whose URL was read once, by `parse_target`."""

    def __init__(self, target: Target, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.target = target
        self.method = "POST"
        self.url = target.url
        self.headers = CaseInsensitiveDict(headers)
        self.headers["Content-Length"] = str(len(body))
        # Any other coding would be worth nothing: the answer's body is never inflated.
        self.headers["Accept-Encoding"] = "identity"
        self.body = body

    @property
    def path_url(self) -> str:
        return self.target.path


class GuardedAdapter(HTTPAdapter):
    """requests' transport over guarded pools.

    It is called directly, without a Session: so nothing follows a redirect (a Session reads and inflates the
    whole body of a 3xx even if told not to follow), keeps a cookie, or reads proxies and .netrc.
    """

    def __init__(self, *, context: ssl.SSLContext, kept_hosts: int, kept_per_host: int) -> None:
        self._context = context
        super().__init__(pool_connections=kept_hosts, pool_maxsize=kept_per_host)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        self.poolmanager = PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, ssl_context=self._context, **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = {"http": GuardedHttpPool, "https": GuardedHttpsPool}

    def post(self, target: Target, body: bytes, headers: Mapping[str, str], exchange: Exchange) -> BaseHTTPResponse:
        """Send once, to one of the target's addresses.

        Returns:
            The answer with its body still unread.

        Raises:
            WebhookFailure: it went wrong before or at the connection.
            requests.RequestException: it went wrong after.
        """
        request = TargetRequest(target, body, headers)
        timeout: Any = ExchangeTimeout(exchange)  # types-requests doesn't know that requests takes it
        response = self.send(request, stream=True, timeout=timeout)
        raw: BaseHTTPResponse = response.raw
        return raw

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> HTTPConnectionPool:
        """The pool of a TargetRequest; proxies aren't asked for."""
        target: Target = request.target
        pool: HTTPConnectionPool = self.poolmanager.connection_from_host(target.host, target.port, target.scheme)
        return pool

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Nothing: the context verifies; requests would load the certificates again for each connection."""

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """A response without cookies; only its `raw` is used."""
        response = Response()
        response.status_code = resp.status
        response.raw = resp
        response.request = req
        return response
