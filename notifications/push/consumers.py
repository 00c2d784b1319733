"""The WebSocket door, `/ws/jobs`: a thin watcher of the hub (CONTRACT, "Push").

A socket is accepted before it is closed, because a close before it is a bare HTTP 403 to a browser.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http.request import split_domain_port, validate_host

from jobs import log, metrics
from jobs.api.listing import with_artifacts
from jobs.credentials import find_token
from jobs.estimates import with_estimates
from jobs.hub import JobGone, News, NoLongerAllowed, TooSlow, Watcher, hub
from jobs.log import NotRecovered, Position, finishing_artifacts, position_of
from jobs.models import Job
from jobs.representation import as_json, single_job_as_dict
from jobs.visibility import Viewer, viewer_of

logger = logging.getLogger(__name__)

SUBPROTOCOL = "kabar.v1"
AUTH_SECONDS = 5.0
MOST_SUBSCRIPTIONS = 100
MOST_MISTAKES = 10
LARGEST_SEQUENCE = 2**31 - 1

BAD_PROTOCOL = 4400
NO_CREDENTIAL = 4401
TOO_SLOW = 4408
TOO_MANY = 4429


class Refused(Exception):
    """The client asked for what it can't have; the connection stays.

    Args:
        code: a stable word for programs.
        detail: one sentence that tells the user what to do.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class TooManySubscriptions(Exception):
    """The connection has as many as it may have."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a subscription begins."""

    position: Position
    is_recovered: bool


class JobsConsumer(AsyncWebsocketConsumer):
    """One socket with its subscriptions."""

    # The hub is the layer's only member in this process; a channel for each socket would cost a subscription in Redis.
    channel_layer_alias = "none: the hub listens for all sockets"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the socket; its tasks end with it, also where the server cancels it and nobody says goodbye."""
        self._guest: Watcher | None = None
        self._staying: asyncio.Task[None] | None = None
        self._subscriptions: dict[UUID | None, asyncio.Task[None]] = {}
        try:
            with metrics.connection(metrics.Door.WEBSOCKET):
                await super().__call__(scope, receive, send)
        finally:
            for task in self._tasks():
                task.cancel()

    async def connect(self) -> None:
        """Accept, and find the viewer by session or header, or wait for the first message."""
        self._mistakes = 0
        self._late: asyncio.TimerHandle | None = None
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in self.scope.get("subprotocols", []) else None)
        viewer = await self._find_viewer()
        if viewer:
            await self._welcome(viewer)
        else:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(AUTH_SECONDS, lambda: loop.create_task(self._close_unknown()))

    async def disconnect(self, code: int) -> None:
        """End the subscriptions with the socket."""
        if self._late:
            self._late.cancel()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._subscriptions.values(), *([self._staying] if self._staying else [])]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Answer one message of the client."""
        try:
            await self._answer(read_message(text_data))
        except Refused as refused:
            await self._tell(type="error", code=refused.code, detail=refused.detail)
            self._mistakes += 1
            if self._mistakes >= MOST_MISTAKES:
                await self.close(BAD_PROTOCOL)
        except TooManySubscriptions:
            await self.close(TOO_MANY)
        except (DatabaseError, InterfaceError):
            await self._tell(type="error", code="unavailable", detail="The database is away. Try again shortly.")

    async def _answer(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "ping"}:
                await self._tell(type="pong")
            case {"type": "auth", "token": str(token)} if self._viewer is None:
                await self._authenticate(token)
            case {"type": "auth"} if self._viewer:
                raise Refused("already_authenticated", "Open another connection for another user.")
            case _ if self._viewer is None:
                raise Refused("unauthenticated", 'Send {"type": "auth", "token": "…"} first.')
            case {"type": "subscribe", "jobId": job_id}:
                await self._subscribe_to_job(self._viewer, read_uuid(job_id), read_after(message))
            case {"type": "subscribe"}:
                await self._subscribe_to_all(self._viewer, message)
            case {"type": "unsubscribe"}:
                await self._unsubscribe(read_uuid(message["jobId"]) if "jobId" in message else None)
            case _:
                raise Refused("unknown_message", "The type must be subscribe, unsubscribe, ping or auth.")

    # --- who

    @property
    def _viewer(self) -> Viewer | None:
        return self._guest.viewer if self._guest else None

    async def _welcome(self, viewer: Viewer) -> None:
        """Know who is there from now on; the hub looks again whether they still may be."""
        house = await hub()
        arrived = asyncio.Event()

        async def stay() -> None:
            with house.guest(viewer) as self._guest:
                arrived.set()
                with suppress(NoLongerAllowed):
                    await self._guest.next()
            await self.close(NO_CREDENTIAL)

        self._staying = asyncio.create_task(stay())
        await arrived.wait()

    async def _find_viewer(self) -> Viewer | None:
        headers = dict(self.scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            viewer: Viewer | None = await database_sync_to_async(viewer_by_token)(token.strip())
            return viewer
        if tokens := parse_qs(self.scope["query_string"].decode("latin-1")).get("token"):
            viewer = await database_sync_to_async(viewer_by_url_token)(tokens[-1])
            return viewer
        user = self.scope.get("user")
        if user is None or not is_own_origin(
            headers.get(b"origin", b"").decode("latin-1"), headers.get(b"host", b"").decode("latin-1")
        ):
            return None
        session = self.scope["session"].session_key
        viewer = await database_sync_to_async(viewer_by_session)(user, session)
        return viewer

    async def _authenticate(self, token: str) -> None:
        viewer = await database_sync_to_async(viewer_by_token)(token)
        if self._late:
            self._late.cancel()
        if viewer is None:
            await self.close(NO_CREDENTIAL)
        else:
            await self._welcome(viewer)
            await self._tell(type="authenticated")

    async def _close_unknown(self) -> None:
        if self._viewer is None:
            await self.close(NO_CREDENTIAL)

    # --- what

    async def _subscribe_to_job(self, viewer: Viewer, job_id: UUID, after: int | None) -> None:
        shown = await database_sync_to_async(visible_job)(viewer, job_id)
        if shown is None:
            raise Refused("not_found", "There is no such job, or it is not yours to see.")
        await self._make_room(job_id)
        # A snapshot older than the stream's first event would leave a gap, so the stream begins after the snapshot.
        begin = shown["sequence"] if after is None else after
        await self._tell(type="subscribed", jobId=str(job_id), job=shown)
        self._start(job_id, (await hub()).watch_job(viewer, job_id, begin))

    async def _subscribe_to_all(self, viewer: Viewer, message: dict[str, Any]) -> None:
        if viewer.job_id is not None:
            raise Refused("insufficient_scope", "This watch token is bound to one job; subscribe to that job.")
        cursor, scope = message.get("cursor"), message.get("scope")
        if cursor is not None and not isinstance(cursor, str):
            raise Refused("bad_cursor", "The cursor must be text.")
        start = await database_sync_to_async(start_at)(cursor)
        await self._make_room(None)
        cursor_now = await database_sync_to_async(start.position.as_cursor)()
        await self._tell(type="subscribed", cursor=cursor_now, recovered=start.is_recovered)
        self._start(None, (await hub()).watch_all(viewer, start.position, scope_all=scope == "all"))

    async def _unsubscribe(self, job_id: UUID | None) -> None:
        await self._drop(job_id)
        if job_id is None:
            await self._tell(type="unsubscribed")
        else:
            await self._tell(type="unsubscribed", jobId=str(job_id))

    async def _make_room(self, key: UUID | None) -> None:
        """Replace a subscription that stands, and refuse one too many."""
        await self._drop(key)
        if len(self._subscriptions) >= MOST_SUBSCRIPTIONS:
            raise TooManySubscriptions

    async def _drop(self, key: UUID | None) -> None:
        if task := self._subscriptions.pop(key, None):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _start(self, key: UUID | None, stream: AsyncGenerator[News]) -> None:
        self._subscriptions[key] = asyncio.create_task(self._pump(key, stream))

    async def _pump(self, key: UUID | None, stream: AsyncGenerator[News]) -> None:
        """Send what the hub tells until the watcher is let go."""
        try:
            async with aclosing(stream):
                async for news in stream:
                    await self.send(text_data=as_message(news, has_cursor=key is None))
        except TooSlow:
            await self.close(TOO_SLOW)
        except JobGone:
            self._subscriptions.pop(key, None)
            await self._tell(type="unsubscribed", jobId=str(key))
        except NoLongerAllowed:
            await self.close(NO_CREDENTIAL)
        except (DatabaseError, InterfaceError):
            logger.warning("A subscription ends: the database is away")
            await self.close(1013)  # try again later (IANA WebSocket registry)

    async def _tell(self, **message: Any) -> None:
        await self.send(text_data=as_json(message))


async def no_such_door(scope: Any, receive: Any, send: Any) -> None:
    """Refuse a socket on any other path: an HTTP 403 to its browser."""
    await receive()
    await send({"type": "websocket.close"})


def as_message(news: News, *, has_cursor: bool) -> str:
    """Write an event's message around its envelope, which is JSON already; a subscription to one job has no cursor."""
    cursor = f'"{news.cursor}"' if has_cursor and news.cursor else "null"
    return f'{{"type":"event","cursor":{cursor},"event":{news.text}}}'


def read_message(text: str | None) -> dict[str, Any]:
    """Read a client's message.

    Raises:
        Refused: it isn't a JSON object.
    """
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise Refused("not_json", "Messages must be JSON text.") from error
    if not isinstance(message, dict):
        raise Refused("not_an_object", "Messages must be JSON objects.")
    return message


def read_uuid(value: Any) -> UUID:
    """Read a job's id.

    Raises:
        Refused: it isn't one.
    """
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise Refused("not_found", "There is no such job, or it is not yours to see.") from error


def read_after(message: dict[str, Any]) -> int | None:
    """Read where a subscription to one job begins; None for new events only.

    Raises:
        Refused: it isn't a sequence.
    """
    after = message.get("after")
    if after is not None and (
        not isinstance(after, int) or isinstance(after, bool) or not 0 <= after <= LARGEST_SEQUENCE
    ):
        raise Refused("bad_after", "after must be a sequence: a whole number from 0.")
    return after


def is_own_origin(origin: str, host: str) -> bool:
    """Tell whether a page that brings a session cookie is one of ours (cross-site WebSocket hijacking).

    Args:
        origin: where the page is from, as its browser says.
        host: what the browser calls us; one of ALLOWED_HOSTS, or it could be made to call us by any name.
    """
    if origin in {_origin(settings.PUBLIC_URL), *settings.CORS_ALLOWED_ORIGINS}:
        return True
    is_known = validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)
    return is_known and origin in (f"http://{host}", f"https://{host}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# --- In threads: what needs the database ------------------------------------------------------------------------------


def viewer_by_token(text: str) -> Viewer | None:
    """Find who comes with a token that may read."""
    token = find_token(text)
    return viewer_of(token.user, token) if token and token.may_watch else None


def viewer_by_url_token(text: str) -> Viewer | None:
    """Find who comes with a token in the URL, where watch tokens alone may stand."""
    token = find_token(text)
    return viewer_of(token.user, token) if token and token.is_watch_token else None


def viewer_by_session(user: Any, session: str | None) -> Viewer | None:
    """Find who comes with a session's cookie."""
    return viewer_of(user, session=session) if user.is_authenticated and user.is_active else None


def visible_job(viewer: Viewer, job_id: UUID) -> dict[str, Any] | None:
    """Show a job to somebody who may see it."""
    if viewer.job_id not in (None, job_id):
        return None
    job = with_artifacts(Job.objects.filter(viewer.visible(), pk=job_id)).first()
    return with_estimates(job, single_job_as_dict(job, finishing_artifacts(job))) if job else None


def start_at(cursor: str | None) -> Start:
    """Find where a cursor stands; one that can't be followed starts from now, and says so."""
    if cursor is None:
        return Start(position=log.here(), is_recovered=True)
    try:
        return Start(position=position_of(cursor), is_recovered=True)
    except NotRecovered:
        return Start(position=log.here(), is_recovered=False)
