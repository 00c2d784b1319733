"""Held answers: a wrapper round Django that asks the ordinary view, waits without a thread or a connection, asks again.

A view marks an answer that says "not yet" by the header `WAIT`; it names what to wait for and is never sent out
(docs/decisions/held-answers.md). The view knows nothing of the waiting, and authorisation happens in it alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from rest_framework.exceptions import ValidationError

from jobs.hub import hub

WAIT = "X-Kabar-Wait"
LONGEST_SECONDS = 60
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
    response[WAIT] = json.dumps({"seconds": seconds, "job": job_id and str(job_id)})


# --- The wrapper ------------------------------------------------------------------------------------------------------


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

    def without(self, name: bytes) -> Answer:
        """Leave a header out."""
        kept = [(each, value) for each, value in self.start["headers"] if each.lower() != name]
        return Answer(start={**self.start, "headers": kept}, body=self.body)

    async def send_by(self, send: Send) -> None:
        """Send it."""
        await send(self.start)
        await send({"type": "http.response.body", "body": b"".join(self.body)})


async def ask(app: Application, scope: Message) -> Answer:
    """Ask an application a GET that has no body, and collect its answer."""
    answer: Answer | None = None
    is_sent = False

    async def receive() -> Message:
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

    await app(dict(scope), receive, collect)
    if answer is None:
        raise RuntimeError("the application gave no answer")
    return answer


class HeldAnswers:
    """Holds marked answers of the application inside until something changes or the time is over."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not may_be_held(scope):
            await self._app(scope, receive, without_marks(send))
            return
        leaving = asyncio.ensure_future(client_leaves(receive))
        try:
            answer = await self._ask_until_it_changed(scope, leaving)
            if not leaving.done():
                await answer.without(_WAIT).send_by(send)
        finally:
            leaving.cancel()

    async def _ask_until_it_changed(self, scope: Message, leaving: asyncio.Future[None]) -> Answer:
        """Ask, and where the answer says "not yet" and the client stays, wait and ask again.

        A question is never broken off: Django's handler would leave its tasks behind.
        """
        answer = await ask(self._app, scope)
        mark_of_first = answer.header(_WAIT)
        if mark_of_first is None:
            return answer
        wish = json.loads(mark_of_first)
        end = time.monotonic() + wish["seconds"]
        with (await hub()).bell(wish["job"] and UUID(wish["job"])) as bell:
            while answer.header(_WAIT) is not None and not leaving.done():
                answer = await ask(self._app, scope)  # the first time: between the first look and the bell
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
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and b"wait=" in scope["query_string"]
        and scope["path"].startswith(("/api/jobs", "/api/events"))
    )


async def client_leaves(receive: Receive) -> None:
    """Return when the client has gone; daphne says so only by `http.disconnect`."""
    while (await receive())["type"] != "http.disconnect":
        pass
