"""Held answers: a wrapper round Django that asks the ordinary view, waits without a thread or a connection, asks again.

A view marks an answer that says "not yet" by the header `WAIT`; it names what to wait for and is never sent out
(docs/decisions/held-answers.md). The view knows nothing of the waiting, and authorisation happens in it alone. A marked
answer to a submission is held by asking, with the same credential, for the job that it made.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponseBase
from rest_framework.exceptions import ValidationError

from jobs import metrics
from jobs.api.counted import note_held
from jobs.hub import Heeds, hub
from jobs.models import EventType
from jobs.visibility import Viewer

WAIT = "X-Kabar-Wait"
AGAIN = "kabar.again"
"""The ASGI scope's key, which no client can set, of a question that was asked before for the same request."""
LONGEST_SECONDS = 60
RETRY_AFTER_SECONDS = 1
"""When to ask again for what isn't over yet, without `?wait=`."""
READS = ("/api/jobs", "/api/batches", "/api/events")
SUBMISSIONS = re.compile(r"/api/jobs(/[0-9a-fA-F-]{36}/rerun)?")
OF_SUBMISSIONS = re.compile(rb"content-.+|transfer-encoding|expect|prefer|idempotency-key|if-.+|range")
"""Headers that mean nothing, or something else, in a read."""
OF_RECEIPTS = re.compile(rb"location|idempotent-replayed|ratelimit(-policy)?")
"""Headers of a receipt that its held answer has too."""
_WAIT = WAIT.lower().encode()

# ASGI's messages are open dictionaries.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


# --- For views --------------------------------------------------------------------------------------------------------


def seconds_to_wait(request: HttpRequest) -> int:
    """Read `?wait=`: 0 where it isn't asked for.

    Raises:
        ValidationError: it isn't a whole number from 1 to 60.
    """
    text = request.GET.get("wait")
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= LONGEST_SECONDS):
        raise ValidationError({"wait": [f"This must be a whole number of seconds from 1 to {LONGEST_SECONDS}."]})
    return int(text)


def mark(response: HttpResponseBase, *, seconds: int, job_id: UUID | None) -> None:
    """Mark an answer that says "not yet".

    Args:
        response: what to send if nothing changes in time.
        seconds: how long to hold it.
        job_id: whose change to wait for; None for any job's.
    """
    response[WAIT] = json.dumps({"seconds": seconds, "subject": job_id and str(job_id)})


def mark_batch(response: HttpResponseBase, *, seconds: int, batch_id: UUID, until_done: bool) -> None:
    """Mark an answer that says "not yet" of a batch.

    Args:
        response: what to send if nothing changes in time.
        seconds: how long to hold it.
        batch_id: which.
        until_done: whether its end is waited for, and not any change of its counts.
    """
    types = [EventType.BATCH_COMPLETED] if until_done else None
    response[WAIT] = json.dumps({"seconds": seconds, "subject": str(batch_id), "types": types})


def mark_feed(response: HttpResponseBase, *, seconds: int, viewer: Viewer, scope_all: bool) -> None:
    """Mark an answer that says "not yet" of all that a viewer sees; what others do wakes nobody.

    Args:
        response: what to send if nothing comes in time.
        seconds: how long to hold it.
        viewer: who.
        scope_all: whether staff wait for everybody's events.
    """
    seen_by = {"user_id": viewer.user_id, "team_ids": sorted(viewer.team_ids), "is_staff": viewer.is_staff}
    response[WAIT] = json.dumps({"seconds": seconds, "subject": None, "viewer": seen_by, "scope_all": scope_all})


def is_asked_again(request: HttpRequest) -> bool:
    """Tell whether a wrapper asks again for a request that the view has answered before."""
    return bool(getattr(request, "scope", {}).get(AGAIN))


# --- The wrapper ------------------------------------------------------------------------------------------------------


class NoAnswer(Exception):
    """The application gave none: the client left while its request was read."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a view's mark asks for."""

    seconds: int
    subject_id: UUID | None
    heeds: Heeds

    @classmethod
    def of_text(cls, text: bytes) -> Wish:
        """Read it from the header."""
        mark: dict[str, Any] = json.loads(text)
        subject = mark["subject"]
        return cls(seconds=mark["seconds"], subject_id=subject and UUID(subject), heeds=_heeds_of(mark))


def _heeds_of(mark: dict[str, Any]) -> Heeds:
    if types := mark.get("types"):
        return lambda news, _owner_id, _team_id: news.type in types
    if seen_by := mark.get("viewer"):
        viewer, scope_all = Viewer(**{**seen_by, "team_ids": frozenset(seen_by["team_ids"])}), mark["scope_all"]
        return lambda _news, owner_id, team_id: viewer.may_see(owner_id, team_id, scope_all=scope_all)
    return lambda *_: True


@dataclass(kw_only=True)
class Answer:
    """An application's whole answer to one request."""

    start: Message
    body: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start["status"])

    def header(self, name: bytes) -> bytes | None:
        """Give a header's first value."""
        return next((value for each, value in self.start["headers"] if each.lower() == name), None)

    def without(self, *names: bytes) -> Answer:
        """Leave headers out."""
        kept = [(each, value) for each, value in self.start["headers"] if each.lower() not in names]
        return Answer(start={**self.start, "headers": kept}, body=self.body)

    def having(self, *headers: tuple[bytes, bytes]) -> Answer:
        """Put headers in the place of those of their names."""
        others = self.without(*(name.lower() for name, _ in headers))
        return Answer(start={**self.start, "headers": [*others.start["headers"], *headers]}, body=self.body)

    async def send_by(self, send: Send) -> None:
        """Send it."""
        await send(self.start)
        await send({"type": "http.response.body", "body": b"".join(self.body)})


async def ask(app: Application, scope: Message, receive: Receive | None = None) -> Answer:
    """Ask an application, and collect its answer.

    Args:
        app: whom.
        scope: what.
        receive: the client's side, where the request has a body.

    Raises:
        NoAnswer: there is none, because the client left.
    """
    answer: Answer | None = None
    is_sent = False

    async def receive_nothing() -> Message:
        nonlocal is_sent
        if is_sent:
            await asyncio.Event().wait()  # the leaver is noticed outside
        is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def collect(message: Message) -> None:
        nonlocal answer
        if message["type"] == "http.response.start":
            answer = Answer(start=message)
        elif answer:
            answer.body.append(message.get("body", b""))

    await app(dict(scope), receive or receive_nothing, collect)
    if answer is None:
        raise NoAnswer
    return answer


class HeldAnswers:
    """Holds marked answers of the application inside until something changes or the time is over."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not may_be_held(scope):
            await self._app(scope, receive, without_marks(send))
        elif scope["method"] == "POST":
            await self._hold_submission(scope, receive, send)
        else:
            await self._hold_read(scope, receive, send)

    async def _hold_read(self, scope: Message, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(client_leaves(receive))
        try:
            answer = await self._ask_until_it_changed(await ask(self._app, scope), scope, leaving)
            if not leaving.done():
                await answer.without(_WAIT).send_by(send)
        finally:
            leaving.cancel()

    async def _hold_submission(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer with the job once it has ended; with the receipt if the time passes, or the job can't be read."""
        try:
            receipt = await ask(self._app, scope, receive)
        except NoAnswer:
            return
        text = receipt.header(_WAIT)
        if text is None:
            await receipt.send_by(send)
            return
        wish = Wish.of_text(text)
        leaving = asyncio.ensure_future(client_leaves(receive))
        try:
            job = await self._ask_until_it_changed(receipt, as_read(scope, wish), leaving)
            if leaving.done():
                return
            if job.status == HTTPStatus.OK and job.header(_WAIT) is None:
                await as_applied(job, receipt, wish).send_by(send)
            else:
                await receipt.without(_WAIT).send_by(send)
        finally:
            leaving.cancel()

    async def _ask_until_it_changed(self, answer: Answer, scope: Message, leaving: asyncio.Future[None]) -> Answer:
        """Where an answer says "not yet" and the client stays, wait and ask again.

        A question is never broken off: Django's handler would leave its tasks behind.
        """
        mark_of_first = answer.header(_WAIT)
        if mark_of_first is None:
            return answer
        wish = Wish.of_text(mark_of_first)
        end = time.monotonic() + wish.seconds
        try:
            async with asyncio.timeout(wish.seconds):
                house = await hub()
        except (TimeoutError, DatabaseError, InterfaceError):
            return answer  # it can't be held, and it is good as it is
        note_held(scope)
        with metrics.connection(metrics.Door.HELD), house.bell(wish.subject_id, wish.heeds) as bell:
            while answer.header(_WAIT) is not None and not leaving.done():
                # The first time: between the first look and the bell.
                answer = await ask(self._app, {**scope, AGAIN: True})
                if answer.header(_WAIT) is None or (left := end - time.monotonic()) <= 0:
                    break
                ringing: asyncio.Future[Any] = asyncio.ensure_future(bell.wait())
                await asyncio.wait([ringing, leaving], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                ringing.cancel()
                bell.clear()
        return answer


def without_marks(send: Send) -> Send:
    """Send an answer that isn't held, without a view's mark."""

    async def send_clean(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = Answer(start=message).without(_WAIT).start
        await send(message)

    return send_clean


def may_be_held(scope: Message) -> bool:
    """Tell whether a request asks for an answer that its view may mark; all others, files too, pass untouched."""
    if scope["type"] != "http":
        return False
    match scope["method"]:
        case "GET":
            return b"wait=" in scope["query_string"] and scope["path"].startswith(READS)
        case "POST":
            prefers = any(name == b"prefer" and b"wait" in value.lower() for name, value in scope["headers"])
            return prefers and SUBMISSIONS.fullmatch(scope["path"]) is not None
        case _:
            return False


def as_read(scope: Message, wish: Wish) -> Message:
    """Make of a submission the question for the job that it made, by whoever submitted it."""
    path = f"/api/jobs/status/{wish.subject_id}"
    return {
        **scope,
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": f"wait={wish.seconds}".encode(),
        "headers": [(name, value) for name, value in scope["headers"] if not OF_SUBMISSIONS.fullmatch(name)],
    }


def as_applied(job: Answer, receipt: Answer, wish: Wish) -> Answer:
    """Make of the job the answer to its submission (RFC 7240 §3)."""
    kept = [(name, value) for name, value in receipt.start["headers"] if OF_RECEIPTS.fullmatch(name.lower())]
    return job.having(*kept, (b"Preference-Applied", f"wait={wish.seconds}".encode()))


async def client_leaves(receive: Receive) -> None:
    """Return when the client has gone; daphne says so only by `http.disconnect`."""
    while (await receive())["type"] != "http.disconnect":
        pass
