"""What a watcher is told, in which order, and what it isn't told twice."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from jobs import hub as hubs
from jobs import log
from jobs.hub import Hub, News, Watcher
from jobs.log import Position
from jobs.visibility import Viewer

JOB = UUID("01931f6a-7c00-7000-8000-000000000001")
VIEWER = Viewer(user_id=1, team_ids=frozenset(), is_staff=False)


def news(type_of: str, sequence: int, version: int) -> News:
    return News(job_id=JOB, type=type_of, sequence=sequence, version=version, text="{}")


def told(handed: list[News], monkeypatch: pytest.MonkeyPatch, count: int) -> list[tuple[str, int]]:
    """Hand a watcher of one job, who has its first event, some news; give what it was told."""
    monkeypatch.setattr(hubs, "_history", lambda *_: [])

    async def watch() -> list[tuple[str, int]]:
        house = Hub()
        stream: Any = house.watch_job(VIEWER, JOB, 1)
        first = asyncio.ensure_future(anext(stream))
        while not house.watchers:
            await asyncio.sleep(0)
        for each in handed:
            house._hand(each, 1, None)
        heard = [await first]
        heard += [await anext(stream) for _ in range(count - 1)]
        await stream.aclose()
        return [(each.type, each.sequence) for each in heard]

    return asyncio.run(asyncio.wait_for(watch(), 10))


def test_an_event_that_comes_after_newer_progress_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = [news("job.progress", 2, 3), news("job.started", 2, 2), news("job.completed", 3, 4)]
    expected = [("job.progress", 2), ("job.started", 2), ("job.completed", 3)]
    assert told(handed, monkeypatch, 3) == expected


def test_progress_that_is_older_than_what_was_told_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = [
        news("job.started", 2, 2),
        news("job.progress", 2, 4),
        news("job.progress", 2, 3),
        news("job.completed", 3, 9),
        news("job.progress", 2, 8),
        news("job.retrying", 4, 10),
    ]
    expected = [("job.started", 2), ("job.progress", 2), ("job.completed", 3), ("job.retrying", 4)]
    assert told(handed, monkeypatch, 4) == expected


def test_a_watcher_that_comes_while_nobody_listens_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Position] = []

    async def come() -> None:
        house = Hub()
        house._position = Position(id=5)

        def here() -> Position:
            house._watchers[JOB].add(Watcher(house, VIEWER, JOB, scope_all=True))  # between the look and its answer
            return Position(id=9)

        def read_all(position: Position) -> Any:
            asked.append(position)
            return hubs.NewsPage(items=[], position=Position(id=9), is_last=True)

        monkeypatch.setattr(log, "here", here)
        monkeypatch.setattr(hubs, "_read_all", read_all)
        await house._round()

    asyncio.run(asyncio.wait_for(come(), 10))
    assert asked == [Position(id=5)]
