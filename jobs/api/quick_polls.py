"""Status polls in front of Django: the sure ones are answered here, everything else is the view's.

It answers a `GET` of a job by a bearer token where nothing is unusual about the request and the database says yes; the
view (`job_views.OneJob`) stays the one truth. Its headers are learned from the view's own answers, the body comes
of the same functions, and tests/jobs/test_quick_polls.py compares the two byte by byte (docs/decisions/polls.md).

Polls are answered in rounds: one statement for all that wait, which begins after they came, so nothing that it says is
older than the question. Only bodies are remembered, by the job's version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.http.request import split_domain_port, validate_host
from django.utils.http import parse_etags
from knox.crypto import hash_token

from jobs.api import waiting
from jobs.api.counted import note_route
from jobs.api.poll_answers import Bodies, Found, Question
from jobs.api.rounds import Rounds
from jobs.api.waiting import Application, Message, Receive, Send
from jobs.credentials import LONGEST_TOKEN

PATH = re.compile(r"/api/jobs/(status/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
STATUS_ROUTE, JOB_ROUTE = "/api/jobs/status/<uuid:job_id>", "/api/jobs/<uuid:job_id>"
WAIT = re.compile(rb"(?:wait=([1-9]|[1-5][0-9]|60))?")
JSON = frozenset((b"*/*", b"application/json", b"application/json, */*", b"application/json, text/plain, */*"))
"""The usual `Accept` headers that mean the view's own JSON."""
UNUSUAL = frozenset(
    (
        b"cookie",
        b"prefer",
        b"origin",
        b"content-encoding",
        b"content-length",
        b"transfer-encoding",
        b"access-control-request-method",
    )
)
"""What may make the view say something else, or has to be read."""
CONSTANT = frozenset(
    (
        b"content-type",
        b"cache-control",
        b"retry-after",
        b"vary",
        b"allow",
        b"x-frame-options",
        b"content-language",
        b"x-content-type-options",
        b"referrer-policy",
        b"cross-origin-opener-policy",
        b"content-security-policy",
        b"strict-transport-security",
    )
)
"""Headers that are the same on each answer of one shape; a view's answer with any other is not learned from."""
ETAG, LENGTH, MARK = b"etag", b"content-length", waiting.WAIT.lower().encode()
MOST_SHAPES = 100


@dataclass(frozen=True, kw_only=True)
class Poll:
    """A request that holds a question, with what the shape of its answer depends on."""

    question: Question
    wait_seconds: int
    is_status_path: bool
    """The two paths allow different methods, and say so."""
    host: bytes
    forwarded: bytes
    """`X-Forwarded-Proto`: over TLS the view's answers have one header more."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides which headers an answer has, and all their values but for the tag, the length and the mark."""

    is_known: bool
    is_final: bool
    is_marked: bool
    is_status_path: bool
    host: bytes
    forwarded: bytes


class QuickPolls:
    """Answers sure polls, and leaves all else to the application inside."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._rounds: Rounds[Question, Found] = Rounds(Bodies().answer)
        self._learned: dict[Shape, list[tuple[bytes, bytes]]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        poll = poll_of(scope)
        found = await self._rounds.ask(poll.question) if poll else None
        if poll is None or found is None:
            await self._app(scope, receive, send)
            return
        shape = shape_of(poll, found)
        headers = self._learned.get(shape)
        if headers is None:
            await self._app(scope, receive, self._learning(send, shape, found))
            return
        note_route(scope, STATUS_ROUTE if poll.is_status_path else JOB_ROUTE)
        filled = {ETAG: found.etag.encode(), LENGTH: b"%d" % len(found.body or b"")}
        if shape.is_marked:
            filled[MARK] = mark_of(poll)
        status = HTTPStatus.NOT_MODIFIED if found.body is None else HTTPStatus.OK
        complete = [(name, filled.get(name.lower(), value)) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status), "headers": complete})
        await send({"type": "http.response.body", "body": found.body or b""})

    def _learning(self, send: Send, shape: Shape, found: Found) -> Send:
        """Pass the view's answer on, and remember its headers if it is the one that was expected."""

        async def send_and_learn(message: Message) -> None:
            if message["type"] == "http.response.start" and is_as_expected(message, shape, found):
                if len(self._learned) >= MOST_SHAPES:
                    self._learned.clear()
                self._learned[shape] = list(message["headers"])
            await send(message)

        return send_and_learn


def poll_of(scope: Message) -> Poll | None:
    """Read a request; None where it is no poll, or anything about it is unusual."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["root_path"]:
        return None
    path, wait = PATH.fullmatch(scope["path"]), WAIT.fullmatch(scope["query_string"])
    if path is None or wait is None:
        return None
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in UNUSUAL or name in headers:
            return None
        headers[name] = value
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    host = headers.get(b"host", b"")
    if (
        scheme != b"Bearer"
        or not token.isalnum()
        or len(token) > LONGEST_TOKEN
        or headers.get(b"accept", b"*/*") not in JSON
        or headers.get(b"accept-language", b"*") != b"*"
        or not is_allowed_host(host)
    ):
        return None
    known = headers.get(b"if-none-match", b"").decode("latin-1")
    return Poll(
        question=Question(digest=hash_token(token.decode()), job_id=UUID(path[2]), known=tags_of(known)),
        wait_seconds=int(wait[1] or 0),
        is_status_path=path[1] is not None,
        host=host,
        forwarded=headers.get(b"x-forwarded-proto", b""),
    )


@lru_cache(maxsize=100)
def is_allowed_host(host: bytes) -> bool:
    """Tell whether Django lets a `Host` header in."""
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


@lru_cache(maxsize=1000)
def tags_of(header: str) -> tuple[str, ...]:
    """Read `If-None-Match`, as the view does."""
    return tuple(parse_etags(header))


def shape_of(poll: Poll, found: Found) -> Shape:
    """Tell which headers an answer has, as the view decides it."""
    is_known = found.body is None
    is_to_wait = bool(poll.wait_seconds) and not found.is_final and (is_known or not poll.question.known)
    return Shape(
        is_known=is_known,
        is_final=found.is_final,
        is_marked=is_to_wait,
        is_status_path=poll.is_status_path,
        host=poll.host,
        forwarded=poll.forwarded,
    )


def mark_of(poll: Poll) -> bytes:
    """Say what to wait for, as the view does."""
    marked = HttpResponse()
    waiting.mark(marked, seconds=poll.wait_seconds, job_id=poll.question.job_id)
    return marked[waiting.WAIT].encode()


def is_as_expected(start: Message, shape: Shape, found: Found) -> bool:
    """Tell whether the view's answer is the one that was to come, with nothing in it that belongs to this answer alone.

    The job may have moved on meanwhile, or the view say what isn't known here, such as how many requests are left.
    """
    headers = {name.lower(): value for name, value in start["headers"]}
    names = {*headers} - {ETAG, LENGTH, MARK}
    return (
        start["status"] == (HTTPStatus.NOT_MODIFIED if shape.is_known else HTTPStatus.OK)
        and headers.get(ETAG) == found.etag.encode()
        and names <= CONSTANT
        and len(headers) == len(start["headers"])
        and (b"retry-after" in headers) != shape.is_final
        and (MARK in headers) == shape.is_marked
    )
