"""Who in this process waits for news: one reader of the log for all of them.

Workers say over a Channels group that there is news; this hub, the group's only member here, reads the new events once,
writes each as JSON once, and hands them to its watchers: sockets, streams and held answers. A watcher registers first,
then reads the history from its own position, then goes live, dropping what it has seen, so nothing falls between.

A wake-up may be lost: the log is read again every few seconds anyway, and at once when the layer comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.db import connection
from django.db.models import Q

from jobs import log, visibility, wakeup
from jobs.log import Page, Position
from jobs.models import FINAL_EVENTS, Event, EventType, Job
from jobs.representation import as_json
from jobs.visibility import Viewer

logger = logging.getLogger(__name__)

READ_AGAIN_SECONDS = 3.0
"""How long lost wake-ups can delay news."""
LOOK_AGAIN_SECONDS = 30.0
"""How often it is looked up again what watchers may see."""
LAYER_PAUSE_SECONDS = 0.5
MOST_REMEMBERED = 10_000
"""Of how many jobs a watcher of all knows what it told last; progress of others passes."""
MOST_QUEUED = 1000
"""A watcher that lets this many messages wait is too slow and is let go."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class News:
    """One message for watchers."""

    job_id: UUID | None
    """Whose it is; None where it is a batch's."""
    batch_id: UUID | None = None
    """The batch whose it is, or of which the job is one."""
    type: str
    sequence: int
    text: str
    """The envelope as JSON."""
    version: int = 0
    """The Job's version that it shows: what isn't newer than what was told is old."""
    position: Position | None = None
    """Right after this event; None for progress."""

    @property
    def is_progress(self) -> bool:
        """Whether it is state and no event of the log: it has a version and no sequence of its own."""
        return self.type == EventType.PROGRESS

    @property
    def is_final(self) -> bool:
        return self.type in FINAL_EVENTS

    @cached_property
    def cursor(self) -> str | None:
        """Where a reader of all jobs stands after it."""
        return self.position.as_cursor() if self.position else None


class TooSlow(Exception):
    """A watcher did not take its messages in time."""


class NoLongerAllowed(Exception):
    """A watcher's credential is dead, or its job is not its to see any more."""


class JobGone(Exception):
    """The job that was watched was removed, or isn't the viewer's to see any more."""


Heeds = Callable[[News, int, int | None], bool]
"""Tells of news, of its owner's id and its team's, whether somebody waits for it."""


NOBODY = UUID(int=0)
"""What a guest watches: a connection without a subscription, whose credential is looked at all the same."""


class Watcher:
    """Somebody in this process who waits for news of one job, or of all that a viewer sees."""

    def __init__(self, hub: Hub, viewer: Viewer, job_id: UUID | None, *, scope_all: bool) -> None:
        self.viewer = viewer
        self.job_id = job_id
        self.scope_all = scope_all
        self._hub = hub
        self._queue: asyncio.Queue[News | Exception] = asyncio.Queue()

    def wants(self, owner_id: int, team_id: int | None) -> bool:
        """Tell whether a job of this owner and team is this watcher's to see."""
        return self.viewer.may_see(owner_id, team_id, scope_all=self.scope_all or self.job_id is not None)

    def hand(self, news: News) -> None:
        """Give it a message; one that is too slow gets its end instead."""
        if self._queue.qsize() >= MOST_QUEUED:
            self.end(TooSlow())
        else:
            self._queue.put_nowait(news)

    def end(self, reason: Exception) -> None:
        """Let it go: what waits is dropped, and its reader sees the reason."""
        self._hub.forget(self)
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(reason)

    async def next(self) -> News:
        """Wait for the next live message.

        Raises:
            TooSlow, NoLongerAllowed, JobGone: this watcher was let go.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item


class Hub:
    """The one reader of the log in this process."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._bells: dict[UUID | None, dict[asyncio.Event, Heeds]] = defaultdict(dict)
        self._watchers: dict[UUID | None, set[Watcher]] = defaultdict(set)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="hub")
        self._position: Position | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._started = asyncio.Lock()
        self._rounds = 0
        self._round_done = asyncio.Condition()

    # --- for doors

    async def start(self) -> None:
        """Begin to listen, once, before the first watcher."""
        async with self._started:
            if not self._tasks:
                await self._read_in_thread(log.epoch)  # kept: cursors are made on the loop
                self._position = await self._read_in_thread(log.here)
                self._tasks = [
                    asyncio.create_task(self._listen(), name="hub.listen"),
                    asyncio.create_task(self._read(), name="hub.read"),
                    asyncio.create_task(self._look_again(), name="hub.look_again"),
                ]

    @contextmanager
    def bell(self, subject_id: UUID | None, heeds: Heeds = lambda *_: True) -> Iterator[asyncio.Event]:
        """Give a bell that rings when a job changes, or a batch or one of its jobs, or when anything does (None).

        Args:
            subject_id: the job or batch.
            heeds: narrows to some of that news.
        """
        bell = asyncio.Event()
        self._bells[subject_id][bell] = heeds
        try:
            yield bell
        finally:
            del self._bells[subject_id][bell]
            if not self._bells[subject_id]:
                del self._bells[subject_id]

    async def watch_job(self, viewer: Viewer, job_id: UUID, after: int | None) -> AsyncGenerator[News]:
        """Tell a job's events after a sequence, then live ones and progress, each once and in order.

        Args:
            viewer: who; must be allowed to see the job.
            job_id: which.
            after: the last sequence that the viewer has; None for new ones only.

        Raises:
            TooSlow, NoLongerAllowed: the watcher was let go.
        """
        with self._watching(viewer, job_id, scope_all=True) as watcher:
            last, version = (0 if after is None else after), 0
            if after is None:
                last = await database_sync_to_async(_last_sequence)(job_id)
            else:
                while page := await database_sync_to_async(_history)(job_id, last):
                    for news in page:
                        last = news.sequence
                        yield news
            while True:
                news = await watcher.next()
                if news.version <= version if news.is_progress else news.sequence <= last:
                    continue
                last = last if news.is_progress else news.sequence
                version = max(version, news.version)
                yield news

    async def watch_all(
        self, viewer: Viewer, position: Position | None, *, scope_all: bool = False
    ) -> AsyncGenerator[News]:
        """Tell the events of all jobs that a viewer sees since a position, then live ones and progress.

        Args:
            viewer: who.
            position: where they stand; None for new ones only.
            scope_all: whether staff watch everybody's jobs.

        Raises:
            TooSlow, NoLongerAllowed: the watcher was let go.
        """
        await self.look()
        while self._position is None or self._position.until:  # it stands inside a long read
            await self.look()
        # From here to the registration nothing is awaited: what the hub hands out is just what comes after `end`.
        end = self._position
        with self._watching(viewer, None, scope_all=scope_all) as watcher:
            while position is not None:
                page = await database_sync_to_async(_page)(position, viewer.visible(scope_all=scope_all), end)
                for news, _, _ in page.items:
                    yield news
                position = None if page.is_last else page.position
            versions: dict[UUID, int] = {}
            while True:
                news = await watcher.next()
                if news.job_id is None:
                    yield news
                    continue
                if news.is_progress and news.version <= versions.get(news.job_id, 0):
                    continue
                versions.pop(news.job_id, None)
                versions[news.job_id] = news.version
                if len(versions) > MOST_REMEMBERED:
                    del versions[next(iter(versions))]
                yield news

    @contextmanager
    def guest(self, viewer: Viewer) -> Iterator[Watcher]:
        """Look after a connection: its watcher's viewer is kept true, and it is let go when the credential dies."""
        with self._watching(viewer, NOBODY, scope_all=False) as watcher:
            yield watcher

    async def look(self) -> None:
        """Read the log now, and return when what stood in it before this call was handed out."""
        async with self._round_done:
            target = self._rounds + 2 if self._is_reading else self._rounds + 1
            self._wake.set()
            await self._round_done.wait_for(lambda: self._rounds >= target)

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return sum(len(each) for each in self._watchers.values())

    def forget(self, watcher: Watcher) -> None:
        """Stop handing news to a watcher."""
        among = self._watchers.get(watcher.job_id)
        if among is not None:
            among.discard(watcher)
            if not among:
                del self._watchers[watcher.job_id]

    # --- inside

    _is_reading = False

    @contextmanager
    def _watching(self, viewer: Viewer, job_id: UUID | None, *, scope_all: bool) -> Iterator[Watcher]:
        watcher = Watcher(self, viewer, job_id, scope_all=scope_all)
        self._watchers[job_id].add(watcher)
        try:
            yield watcher
        finally:
            self.forget(watcher)

    async def _listen(self) -> None:
        """Take wake-ups and progress from the layer; join it again after each break."""
        layer = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(wakeup.GROUP, channel)
                self._wake.set()
                while True:
                    self._heed(await layer.receive(channel))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("The channel layer is away (%s)", type(error).__name__)
                await asyncio.sleep(LAYER_PAUSE_SECONDS)

    def _heed(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "news":
                self._wake.set()
            case "changed":
                for each in message["jobs"]:
                    for bell in self._bells.get(UUID(each["job"]), ()):
                        bell.set()
            case "progress":
                for each in message["jobs"]:
                    news = News(
                        job_id=UUID(each["job"]),
                        type="job.progress",
                        sequence=each["sequence"],
                        text=each["envelope"],
                        version=each["version"],
                    )
                    self._hand(news, each["owner"], each["team"])

    async def _read(self) -> None:
        """Read the log after each wake-up, and every few seconds without one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_AGAIN_SECONDS):
                    await self._wake.wait()
            self._wake.clear()  # before the read, so that one read covers many wake-ups
            self._is_reading = True
            try:
                await self._round()
            except Exception as error:
                logger.warning("The log can't be read (%s)", type(error).__name__)
                await self._read_in_thread(connection.close)
                await asyncio.sleep(LAYER_PAUSE_SECONDS)
            finally:
                self._is_reading = False

    async def _round(self) -> None:
        if not self._watchers and not self._bells:  # nobody would hear what is read
            here = await self._read_in_thread(log.here)
            if not self._watchers and not self._bells:  # somebody may have come meanwhile
                self._position = here
        while self._position is not None:
            page = await self._read_in_thread(_read_all, self._position)
            for news, owner_id, team_id in page.items:
                self._hand(news, owner_id, team_id)
                self._ring(news, owner_id, team_id)
            self._position = page.position
            if page.is_last:
                break
        async with self._round_done:
            self._rounds += 1
            self._round_done.notify_all()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            watchers = [each for among in self._watchers.values() for each in among]
            try:
                answers = await database_sync_to_async(visibility.look_again)({each.viewer for each in watchers})
                owners = await database_sync_to_async(_owners)({each.job_id for each in watchers if each.job_id})
            except Exception as error:
                logger.warning("What watchers may see can't be read (%s)", type(error).__name__)
                continue
            for watcher in watchers:
                viewer = answers[watcher.viewer]
                if viewer is None:
                    watcher.end(NoLongerAllowed())
                elif watcher.job_id and watcher.job_id != NOBODY and not _may_see(viewer, owners.get(watcher.job_id)):
                    watcher.end(JobGone())
                else:
                    watcher.viewer = viewer

    def _hand(self, news: News, owner_id: int, team_id: int | None) -> None:
        for key in {news.job_id, None}:
            for watcher in list(self._watchers.get(key, ())):
                if watcher.wants(owner_id, team_id):
                    watcher.hand(news)

    def _ring(self, news: News, owner_id: int, team_id: int | None) -> None:
        for key in {news.job_id, news.batch_id, None}:
            for bell, heeds in self._bells.get(key, {}).items():
                if heeds(news, owner_id, team_id):
                    bell.set()

    async def _read_in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *args)


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


async def hub() -> Hub:
    """Give this process's hub, listening; it belongs to the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub()
    await _hubs[loop].start()
    return _hubs[loop]


# --- Reading, in threads ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NewsPage:
    """A page of the log, written as JSON."""

    items: list[tuple[News, int, int | None]]
    """Each with its job's owner and team."""
    position: Position
    is_last: bool


def _as_news(event: Event, position: Position | None = None) -> News | None:
    envelope = log.envelope(event)
    if envelope is None:
        return None
    return News(
        job_id=event.job_id,
        batch_id=event.job.batch_id if event.job else event.batch_id,
        type=event.type,
        sequence=event.sequence,
        version=event.data.get("version", 0),
        text=as_json(envelope),
        position=position,
    )


def _as_page(page: Page) -> NewsPage:
    items = [(news, event.owner_id, event.team_id) for event, place in page.events if (news := _as_news(event, place))]
    return NewsPage(items=items, position=page.position, is_last=page.is_last)


def _read_all(position: Position) -> NewsPage:
    return _as_page(log.read(position))


def _page(position: Position, visible: Q, end: Position) -> NewsPage:
    return _as_page(log.read(position, visible, end=end))


def _history(job_id: UUID, after: int) -> list[News]:
    return [news for event in log.history(job_id, after) if (news := _as_news(event))]


def _last_sequence(job_id: UUID) -> int:
    return Job.objects.values_list("sequence", flat=True).get(pk=job_id)


def _may_see(viewer: Viewer, owner: tuple[int, int | None] | None) -> bool:
    return owner is not None and viewer.may_see(*owner)


def _owners(job_ids: set[UUID]) -> dict[UUID, tuple[int, int | None]]:
    rows = Job.objects.filter(pk__in=job_ids).values_list("pk", "owner_id", "team_id")
    return {pk: (owner_id, team_id) for pk, owner_id, team_id in rows}
