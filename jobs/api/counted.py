"""Counts requests: the outermost ASGI wrapper, for some are answered in front of Django.

Whoever answers says which route it was, in a note that the request's scope carries through all wrappers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from jobs import metrics

if TYPE_CHECKING:
    from jobs.api.waiting import Application, Message, Receive, Send

NOTE = "kabar.note"
"""The ASGI scope's key, which no client can set."""
UNMATCHED = "unmatched"


@dataclass(kw_only=True)
class Note:
    """What is known of a request."""

    route: str = UNMATCHED
    is_held: bool = False


def note_route(scope: Message, route: str) -> None:
    """Note the pattern of a request's path; the first stays, where a wrapper asks on for the same request."""
    if (note := scope.get(NOTE)) and note.route == UNMATCHED:
        note.route = route


def note_held(scope: Message) -> None:
    """Note that the answer waits because the client asked for it."""
    if note := scope.get(NOTE):
        note.is_held = True


class CountedRequests:
    """Counts what the application inside answers, as its answers begin."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        note, begun, is_counted = Note(), time.monotonic(), False

        def count(status: int) -> None:
            nonlocal is_counted
            is_counted = True
            seconds = None if note.is_held else time.monotonic() - begun
            metrics.count_request(route=note.route, method=scope["method"], status=status, seconds=seconds)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app({**scope, NOTE: note}, receive, send_counted)
        except Exception:
            if not is_counted:  # the server will answer so
                count(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
