"""Those who wait for a job's change cost a bell each, and nothing once they have gone or were answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpResponse

from jobs.api import waiting
from jobs.api.waiting import WAIT, HeldAnswers, Message
from jobs.hub import Hub, News
from tests.jobs.test_quick_polls import poll

JOB = UUID("01931f6a-7c00-7000-8000-000000000001")
CLIENTS = 100


class Door:
    """A job that isn't done until somebody says so, and clients that wait for it."""

    def __init__(self, house: Hub) -> None:
        self.house = house
        self.is_done = False
        self.leaving = asyncio.Event()
        self.sent: list[Message] = []
        self.tasks = [asyncio.ensure_future(self._client()) for _ in range(CLIENTS)]

    @property
    def bells(self) -> int:
        return sum(len(each) for each in self.house._bells.values())

    async def view(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the view does."""
        marked = HttpResponse()
        waiting.mark(marked, seconds=30, job_id=JOB)
        headers = [] if self.is_done else [(WAIT.lower().encode(), marked[WAIT].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def _client(self) -> None:
        requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if requests:
                return requests.pop()
            await self.leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await HeldAnswers(self.view)(poll(JOB, "x", b"wait=30"), receive, send)


def opened(monkeypatch: pytest.MonkeyPatch) -> Door:
    """Open a door on a hub that reads no log."""
    house = Hub()

    async def hub() -> Hub:
        return house

    monkeypatch.setattr(waiting, "hub", hub)
    return Door(house)


def test_those_who_leave_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_and_leave() -> Door:
        door = opened(monkeypatch)
        await door.until(lambda: door.bells == CLIENTS)
        door.leaving.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*door.tasks)
        return door

    door = asyncio.run(wait_and_leave())
    assert (door.house._bells, door.sent) == ({}, [])


def test_all_are_answered_once_by_one_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_end() -> Door:
        door = opened(monkeypatch)
        await door.until(lambda: door.bells == CLIENTS)
        door.is_done = True
        door.house._ring(News(job_id=JOB, type="job.completed", sequence=2, text="{}"), 1, None)
        async with asyncio.timeout(10):
            await asyncio.gather(*door.tasks)
        return door

    door = asyncio.run(wait_for_end())
    assert (door.house._bells, len(door.sent)) == ({}, 2 * CLIENTS)
