"""The way out: one POST of a webhook, to where webhooks may go, within a deadline."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import requests
import urllib3
from urllib3.response import BaseHTTPResponse

from notifications.webhooks.addresses import AllowList
from notifications.webhooks.answer import MAX_BODY_BYTES, Answer, body_text, parse_retry_after
from notifications.webhooks.connections import GuardedAdapter
from notifications.webhooks.failures import WebhookFailure
from notifications.webhooks.lookup import Lookup, look_up
from notifications.webhooks.timed_sockets import Exchange, trusting_context
from notifications.webhooks.urls import Target, check_url, parse_target

DEADLINE_SECONDS = 15.0
BODY_SECONDS = 2.0
"""How long to wait for the body's start once the status is known: it is for the record only."""

# What a network and a hostile receiver can make requests, urllib3, http.client, ssl and socket raise.
_NETWORK_FAULTS = (
    WebhookFailure,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class Sender:
    """Sends webhooks; the threads of a process share one, and with it the kept connections.

    Make it in the process that uses it: connections don't outlive a fork.
    """

    def __init__(
        self,
        *,
        allow: AllowList,
        ca_file: str | None = None,
        lookup: Lookup = look_up,
        kept_hosts: int = 64,
        kept_per_host: int = 16,
    ) -> None:
        """
        Args:
            allow: what the operator lets through; may be replaced at any time.
            ca_file: certificates to trust beside certifi's and the system's.
            lookup: who knows the addresses of names.
            kept_hosts: how many hosts connections are kept for.
            kept_per_host: how many connections each; not less than the threads.
        """
        self.allow = allow
        self._lookup = lookup
        self._adapter = GuardedAdapter(
            context=trusting_context(ca_file), kept_hosts=kept_hosts, kept_per_host=kept_per_host
        )

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> Answer:
        """Send one webhook; all that network and receiver do ends in an answer, never in an exception.

        A status decides even if the answer's body breaks off afterwards. Redirects aren't followed.

        Args:
            url: of the receiver, checked once more.
            body: as it was signed.
            headers: all that the receiver gets beside Host, Content-Length and Accept-Encoding.
            deadline_seconds: for the whole, from the lookup of the name to the answer's status.
        """
        started_at = time.monotonic()
        exchange = Exchange(deadline=started_at + deadline_seconds, allow=self.allow, lookup=self._lookup)
        try:
            check_url(url, self.allow)
            response = self._send(parse_target(url), body, headers, exchange)
        except _NETWORK_FAULTS as error:
            code, message = _explain(error, deadline_seconds)
            return Answer(
                status_code=None,
                duration_seconds=time.monotonic() - started_at,
                error_code=code,
                error=message,
            )
        body_start = _read_start(response, exchange)
        return Answer(
            status_code=response.status,
            duration_seconds=time.monotonic() - started_at,
            body_start=body_text(body_start, response.headers.get("Content-Encoding")),
            retry_after_seconds=parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def close(self) -> None:
        """Let the kept connections go."""
        self._adapter.close()

    def _send(self, target: Target, body: bytes, headers: Mapping[str, str], exchange: Exchange) -> BaseHTTPResponse:
        try:
            return self._adapter.post(target, body, headers, exchange)
        except _NETWORK_FAULTS:
            # A kept connection that the receiver had just closed fails like this: it never saw the request.
            was_stale = not exchange.on_new_connection and exchange.received_bytes == 0
            if not was_stale or time.monotonic() >= exchange.deadline:
                raise
        # In the place of a connection that failed urllib3 opens a new one, though older ones may be kept.
        return self._adapter.post(target, body, headers, exchange)


def _read_start(response: BaseHTTPResponse, exchange: Exchange) -> bytes:
    """The first bytes of a body, undecoded; the connection is kept only if these were all."""
    exchange.deadline = min(exchange.deadline, time.monotonic() + BODY_SECONDS)
    start = bytearray()
    try:
        while len(start) < MAX_BODY_BYTES:
            # read1, since read waits for all that it is asked for, and loses what came if the rest doesn't.
            piece = response.read1(MAX_BODY_BYTES - len(start), decode_content=False)
            if not piece:
                break
            start += piece
    except _NETWORK_FAULTS:
        pass  # the status is what counts
    if not response.closed:
        response.close()  # and its connection; one that was read to its end is in its pool already
    return bytes(start)


def _explain(error: Exception, deadline_seconds: float) -> tuple[str, str]:
    """The error's code and a sentence for the webhook's owner."""
    for cause in _causes(error):
        match cause:
            case WebhookFailure():
                return cause.code, cause.message
            case TimeoutError():
                return (
                    "timeout",
                    f"The receiver didn't answer within {deadline_seconds:g} s. Answer first, work later.",
                )
            case ssl.SSLCertVerificationError():
                return "tls_failed", f"The receiver's certificate isn't valid: {cause.verify_message}."
            case ssl.SSLError():
                return (
                    "tls_failed",
                    "The receiver doesn't speak TLS as it should. Check its certificate and port.",
                )
            case http.client.LineTooLong():
                return (
                    "answer_too_large",
                    "A line of the answer's head was too long. Answer with a status and no more.",
                )
            case ConnectionError() | http.client.IncompleteRead():
                return "connection_closed", "The receiver closed the connection before it had answered."
            case http.client.HTTPException() | urllib3.exceptions.InvalidHeader():
                return (
                    "bad_answer",
                    "The receiver's answer can't be read as HTTP. Check the URL's scheme and port.",
                )
            case _:
                continue
    return "connection_failed", "The connection to the receiver failed."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was made of: requests and urllib3 wrap errors as argument, reason or cause."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        waiting.extend(item for item in inner if isinstance(item, BaseException))
