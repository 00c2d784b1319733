"""Server-sent events (WHATWG HTML §9.2): an ASGI wrapper that asks the ordinary view once, then streams from the hub.

The view checks the credential and says what may be told; from there on a stream costs neither a thread nor a database
connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from channels.db import database_sync_to_async
from django.http.request import MediaType

from jobs import metrics
from jobs.api.streams import DOOR, GRANT, Grant
from jobs.api.waiting import AGAIN, Answer, Application, Message, Receive, Send, ask, client_leaves
from jobs.hub import JobGone, News, NoLongerAllowed, TooSlow, hub
from jobs.log import position_of
from jobs.models import Job
from jobs.representation import as_json

PATHS = re.compile(r"/api/(jobs/[0-9a-fA-F-]{36}/)?events")
RETRY_MILLISECONDS = 2000
COMMENT_SECONDS = 15.0
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
COMMON = re.compile(rb"access-control-.+|vary|referrer-policy|ratelimit(-policy)?")


class EventStreams:
    """Answers `Accept: text/event-stream` on the events' paths; all else goes to the application inside."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not wants_stream(scope):
            await self._app(scope, receive, send)
            return
        question = as_question(scope)
        answer, is_reset = await ask(self._app, question), False
        if answer.status == HTTPStatus.GONE:  # its cursor can't be followed: say so, and go on from now
            answer, is_reset = await ask(self._app, without_cursor(question)), True
        grant = grant_of(answer)
        if grant is None:
            await answer.send_by(send)
        elif grant.is_over:  # nothing more will come: 204 stops EventSource
            start = {"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": common_headers(answer)}
            await send(start)
            await send({"type": "http.response.body", "body": b""})
        else:
            with metrics.connection(metrics.Door.STREAM):
                await stream(grant, receive, send, is_reset=is_reset, headers=common_headers(answer))


def wants_stream(scope: Message) -> bool:
    """Tell whether a request is for a stream of events."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and PATHS.fullmatch(scope["path"]) is not None
        and prefers_stream(",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"))
    )


def prefers_stream(accept: str) -> bool:
    """Tell whether an `Accept` header asks for a stream by name, and not for JSON rather (RFC 9110 §12.5.1)."""
    wishes = {(each.main_type, each.sub_type): each.quality for each in map(MediaType, accept.split(","))}
    wish = wishes.get(("text", "event-stream"), 0)
    return wish > 0 and wish >= wishes.get(("application", "json"), 0)


def as_question(scope: Message) -> Message:
    """Ask the view for the door: what comes back is a grant and no body, and nothing is held."""
    query = [each for each in parse_qsl(scope["query_string"].decode("ascii")) if each[0] != "wait"]
    headers = [each for each in scope["headers"] if each[0] not in (b"accept", b"if-none-match")]
    return {**scope, DOOR: "stream", "headers": headers, "query_string": urlencode(query).encode()}


def without_cursor(question: Message) -> Message:
    """Ask for a stream from now on."""
    query = [each for each in parse_qsl(question["query_string"].decode("ascii")) if each[0] != "cursor"]
    headers = [each for each in question["headers"] if each[0] != b"last-event-id"]
    return {**question, AGAIN: True, "headers": headers, "query_string": urlencode(query).encode()}


def grant_of(answer: Answer) -> Grant | None:
    """Read what the view granted, if it did."""
    text = answer.header(GRANT.lower().encode())
    return Grant.of_text(text.decode()) if answer.status == HTTPStatus.OK and text else None


def common_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Give what the application says in all its answers: who may read them elsewhere, and what is left of a rate."""
    return [(name, value) for name, value in answer.start["headers"] if COMMON.fullmatch(name.lower())]


async def stream(
    grant: Grant, receive: Receive, send: Send, *, is_reset: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    """Send events until the final one, or until the client leaves.

    Args:
        grant: what may be told.
        receive: the client's side; says when it leaves.
        send: the server's side.
        is_reset: whether the client's cursor could not be followed, which it is told first.
        headers: what goes out beside the stream's own.
    """
    await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [*HEADERS, *headers]})
    beginning = f"retry: {RETRY_MILLISECONDS}\n\n"
    if is_reset:
        beginning += f"event: reset\nid: {grant.cursor}\ndata: {as_json({'cursor': grant.cursor})}\n\n"
    await send({"type": "http.response.body", "body": beginning.encode(), "more_body": True})
    writing, leaving = asyncio.ensure_future(write(grant, send)), asyncio.ensure_future(client_leaves(receive))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also where the server cancels this
        leaving.cancel()
        is_over = writing.done()
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    if is_over:
        await send({"type": "http.response.body", "body": b""})


async def write(grant: Grant, send: Send) -> None:
    """Send events as they come, and a comment where none does, until the final one of a single job."""
    news_of = await job_stream(grant.job_id, grant) if grant.job_id else await feed(grant)
    with suppress(TooSlow, NoLongerAllowed, JobGone):  # it comes back with its last id, or is told 401
        async with aclosing(with_pauses(news_of)) as paced:
            async for news in paced:
                chunk = as_sse(news, is_feed=grant.job_id is None) if news else ": still here\n\n"
                await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
                if news and grant.job_id and news.is_final and await is_newest(grant.job_id, news.sequence):
                    return


async def job_stream(job_id: UUID, grant: Grant) -> AsyncGenerator[News]:
    """Open the events of one job."""
    return (await hub()).watch_job(grant.viewer, job_id, grant.after)


async def feed(grant: Grant) -> AsyncGenerator[News]:
    """Open the events of all jobs."""
    position = await database_sync_to_async(position_of)(grant.cursor)
    return (await hub()).watch_all(grant.viewer, position, scope_all=grant.scope_all)


async def with_pauses(news_of: AsyncGenerator[News]) -> AsyncGenerator[News | None]:
    """Give None in between where nothing came for a while, so that proxies keep the connection."""
    coming: asyncio.Future[News] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(news_of))
            done, _ = await asyncio.wait({coming}, timeout=COMMENT_SECONDS)
            if not done:
                yield None
                continue
            news, coming = coming.result(), None
            yield news
    except StopAsyncIteration:
        return
    finally:
        if coming:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming
        await news_of.aclose()


def as_sse(news: News, *, is_feed: bool) -> str:
    """Write an event's block; progress has no id, so that a resume never depends on it."""
    number = "" if news.is_progress else f"id: {news.cursor if is_feed else news.sequence}\n"
    return f"event: {news.type}\n{number}data: {news.text}\n\n"


async def is_newest(job_id: UUID, sequence: int) -> bool:
    """Tell whether a final event still ends the log: a retry opens it again."""
    newest = Job.objects.filter(pk=job_id).values_list("sequence", flat=True)
    return await database_sync_to_async(newest.first)() in (sequence, None)
