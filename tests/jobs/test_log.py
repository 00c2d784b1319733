"""The log's cursor: a reader of all jobs misses nothing, whatever commits when, and is told where that can't be."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs import lifecycle, log
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Submission
from jobs.log import NotRecovered, Position, position_of
from jobs.models import Event, EventType, Job
from jobs.representation import event_id
from tests.factories import claimed_job, new_job, new_user

WRITERS = 4
ROUNDS = 30
JOBS = 6
Place = tuple[UUID, int]

quick = hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


class RolledBack(Exception):
    """A writer changes its mind."""


class Reader:
    """Somebody who pages through all news, goes away again and again, and comes back with a cursor."""

    def __init__(self, start: Position, seed: int) -> None:
        self.seen: list[Place] = []
        self._position = start
        self._random = random.Random(seed)

    def read_page(self) -> bool:
        """Read a page and keep some of it, as a client does whose connection breaks in the middle.

        Returns:
            Whether that was all there is.
        """
        page = log.read(self._position, limit=self._random.choice([1, 3, 7, 50]))
        events = list(page.events)
        is_broken = bool(events) and self._random.random() < 0.4
        if is_broken:
            events = events[: self._random.randint(0, len(events))]
        for event, position in events:
            assert event.job_id is not None
            self.seen.append((event.job_id, event.sequence))
            self._position = position
        if not is_broken:
            self._position = page.position
        self._position = position_of(self._position.as_cursor())
        return page.is_last and not is_broken

    def check(self, written: set[Place]) -> None:
        """It has each event once, and those of each job in order."""
        missed, doubled = written - set(self.seen), len(self.seen) - len(set(self.seen))
        assert (missed, doubled) == (set(), 0)
        for job_id in {job_id for job_id, _ in self.seen}:
            sequences = [sequence for each, sequence in self.seen if each == job_id]
            assert sequences == sorted(sequences)


def in_threads(functions: list[Callable[[], None]]) -> None:
    """Run functions side by side with connections of their own, and raise what one of them raised."""
    faults: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[each]) for each in functions]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if faults:
        raise faults[0]


def write_event(job_id: UUID, dice: random.Random) -> None:
    """Raise a job's sequence and write its event, with a pause before the commit, and sometimes none."""
    with suppress(RolledBack), transaction.atomic():
        Job.objects.filter(pk=job_id).update(sequence=F("sequence") + 1)
        job = Job.objects.get(pk=job_id)
        log.append([log.Line(job=job, type=EventType.LOG, at=timezone.now(), sequence=job.sequence)])
        if dice.random() < 0.5:
            time.sleep(dice.random() * 0.01)
        if dice.random() < 0.15:
            raise RolledBack


@pytest.mark.django_db(transaction=True)
def test_readers_miss_nothing_whatever_order_writers_commit_in() -> None:
    owner = new_user()
    job_ids = [new_job(owner).pk for _ in range(JOBS)]
    start = log.here()
    readers = [Reader(start, seed) for seed in range(3)]
    are_done = threading.Event()
    left = threading.Semaphore(0)

    def write(seed: int) -> Callable[[], None]:
        dice = random.Random(seed)

        def run() -> None:
            try:
                for _ in range(ROUNDS):
                    write_event(dice.choice(job_ids), dice)
            finally:
                left.release()

        return run

    def hold_one_open() -> None:
        """Take an id early and commit it last; on SQLite that would only stop everybody."""
        slow = new_job(owner)
        job_ids_of_slow.append(slow.pk)
        with transaction.atomic():
            Job.objects.filter(pk=slow.pk).update(sequence=F("sequence") + 1)
            job = Job.objects.get(pk=slow.pk)
            log.append([log.Line(job=job, type=EventType.LOG, at=timezone.now(), sequence=job.sequence)])
            for _ in range(WRITERS):
                left.acquire(timeout=30)
        are_done.set()

    def finish() -> None:
        for _ in range(WRITERS):
            left.acquire(timeout=30)
        are_done.set()

    def read(reader: Reader) -> Callable[[], None]:
        def run() -> None:
            while not are_done.is_set():
                reader.read_page()
            while not reader.read_page():
                pass

        return run

    job_ids_of_slow: list[UUID] = []
    last = hold_one_open if connection.vendor == "postgresql" else finish
    in_threads([last, *map(write, range(WRITERS)), *map(read, readers)])
    first_events = {(job_id, 1) for job_id in job_ids}
    written = {(job_id, sequence) for job_id, sequence in Event.objects.values_list("job", "sequence")}
    assert len(written) > WRITERS * ROUNDS / 2
    for reader in readers:
        reader.check(written - first_events)


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_news_does_not_wait_for_a_transaction_that_stays_open() -> None:
    owner, start = new_user(), log.here()
    is_open, may_close = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            new_job(owner)
            is_open.set()
            may_close.wait(timeout=30)

    def look() -> None:
        is_open.wait(timeout=30)
        try:
            later = new_job(owner)
            page = log.read(start)
            assert [event.job_id for event, _ in page.events] == [later.pk]
            positions.append(page.position)
        finally:
            may_close.set()

    positions: list[Position] = []
    in_threads([hold, look])
    page = log.read(positions[0])
    assert [event.sequence for event, _ in page.events] == [1]
    assert log.read(page.position).events == []


@pytest.mark.django_db(transaction=True)
def test_a_page_ends_where_its_limit_says_and_goes_on_from_there() -> None:
    owner, start = new_user(), log.here()
    ids = [new_job(owner).pk for _ in range(5)]
    seen, position = [], start
    while True:
        page = log.read(position, limit=2)
        seen += [event.job_id for event, _ in page.events]
        assert len(page.events) <= 2
        position = page.position
        if page.is_last:
            break
    assert seen == ids


@pytest.mark.django_db(transaction=True)
def test_a_reader_gets_what_it_may_see_and_its_position_passes_the_rest() -> None:
    mine, other, start = new_user(), new_user(), log.here()
    new_job(other)
    job = new_job(mine)
    new_job(other)
    page = log.read(start, Q(owner_id=mine.pk))
    assert [event.job_id for event, _ in page.events] == [job.pk]
    assert log.read(page.position, Q(owner_id=mine.pk)).events == []


@pytest.mark.django_db(transaction=True)
def test_who_comes_back_into_an_older_page_gets_what_followed_it_too() -> None:
    owner, start = new_user(), log.here()
    ids = [new_job(owner).pk for _ in range(3)]
    _, after_first = log.read(start).events[0]
    ids.append(new_job(owner).pk)
    page = log.read(after_first)
    seen = [*page.events]
    while not page.is_last:
        page = log.read(page.position)
        seen += page.events
    assert [event.job_id for event, _ in seen] == ids[1:]
    assert log.read(page.position).events == []


@pytest.mark.django_db(transaction=True)
def test_the_position_after_an_empty_page_follows_what_comes_next() -> None:
    owner, position = new_user(), log.here()
    for _ in range(3):
        page = log.read(position)
        assert page.events == []
        position = page.position
    job = new_job(owner)
    assert [event.job_id for event, _ in log.read(position).events] == [job.pk]


# --- Cursors ----------------------------------------------------------------------------------------------------------


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.django_db
def test_a_cursor_brings_its_position_back() -> None:
    new_job()
    here = log.here()
    assert position_of(here.as_cursor()) == here
    for _, position in log.read(Position(seen="1:1:" if here.seen else ""), limit=1).events:
        assert position_of(position.as_cursor()) == position


@pytest.mark.django_db
def test_a_cursor_of_another_log_is_not_followed() -> None:
    ours = base64.urlsafe_b64decode(log.here().as_cursor() + "==").decode()
    with pytest.raises(NotRecovered, match="another log"):
        position_of(cursor_of(ours.replace(log.epoch(), "0" * 12)))


@pytest.mark.django_db
def test_a_cursor_from_before_what_is_kept_is_not_followed() -> None:
    epoch, minted, rest = base64.urlsafe_b64decode(log.here().as_cursor() + "==").decode().split("/", 2)
    old = int(minted) - int(settings.RETENTION.total_seconds()) - 60
    with pytest.raises(NotRecovered, match="older"):
        position_of(cursor_of(f"{epoch}/{old}/{rest}"))


@pytest.mark.django_db
@given(text=st.text(max_size=200))
@example(text="")
@example(text="é")
@example(text="====")
@example(text="\ud800")
@quick
def test_any_text_is_a_cursor_or_not_recovered(text: str) -> None:
    with pytest.raises(NotRecovered):
        position_of(text)


HUGE = str(10**400)
numbers = st.sampled_from(["", "0", "1", "-1", " 7 ", "1_0", "nan", str(2**63), str(2**64), HUGE, "1" * 5000])
snapshots = st.one_of(
    st.sampled_from(["", "0:0:", "1:1:", "5:3:", "5:9:9", "5:9:7,6", "5:9:6,7", "5:9:,", f"{2**64}:{2**64}:", "9:9:9"]),
    st.builds(
        lambda low, high, between: f"{low}:{high}:{','.join(map(str, between))}",
        st.integers(0, 2**65),
        st.integers(0, 2**65),
        st.lists(st.integers(0, 2**64), max_size=3),
    ),
    st.text(max_size=20),
)


@pytest.mark.django_db
@given(minted=numbers, seen=snapshots, until=snapshots, last=numbers)
@example(minted=HUGE, seen="1:1:", until="", last="0")
@example(minted="NOW", seen="5:3:", until="", last="0")
@example(minted="NOW", seen="1:1:", until="5:3:", last="0")
@example(minted="NOW", seen="5:9:7,6", until="", last="0")
@example(minted="NOW", seen=f"{2**64}:{2**64}:", until="", last="0")
@example(minted="NOW", seen="99999999999999999999:99999999999999999999:", until="", last="0")
@quick
def test_a_forged_cursor_reads_or_is_not_recovered(minted: str, seen: str, until: str, last: str) -> None:
    forged = f"{log.epoch()}/{minted.replace('NOW', str(int(time.time())))}/{seen}/{until}/{last}"
    try:
        position = position_of(base64.urlsafe_b64encode(forged.encode("utf-8", "replace")).decode())
    except NotRecovered:
        return
    with transaction.atomic():
        log.read(position, limit=1)


# --- Public ids -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_public_ids_are_unique_stable_uuids_of_version_7() -> None:
    job = claimed_job()
    lines = [{"level": "info", "message": str(each)} for each in range(50)]
    lifecycle.beat([Beat(job=job, lines=lines, moments=[timezone.now()] * 50)])

    def ids() -> list[UUID]:
        return [event_id(job.pk, event.sequence, event.at) for event in log.history(job.pk)]

    first = ids()
    assert first == ids()
    assert len(set(first)) == len(first) == 52
    assert {(each.version, each.variant) for each in first} == {(7, "specified in RFC 4122")}
    for event, public in zip(log.history(job.pk), first, strict=True):
        assert public.int >> 80 == int(event.at.timestamp() * 1000)


@given(subject=st.uuids(), sequence=st.integers(1, 2**31 - 1), seconds=st.integers(0, 10**9))
@quick
def test_a_public_id_depends_on_its_job_and_sequence(subject: UUID, sequence: int, seconds: int) -> None:
    at = timezone.now() + timedelta(seconds=seconds)
    public = event_id(subject, sequence, at)
    assert (public.version, public.variant) == (7, "specified in RFC 4122")
    assert public != event_id(subject, sequence + 1, at)
    assert public != event_id(uuid4(), sequence, at)


@pytest.mark.django_db
def test_history_is_read_in_pages_by_sequence() -> None:
    owner = new_user()
    (job,) = lifecycle.accept([Submission(kind=get_kind("demo.countdown"), owner_id=owner.pk)])
    lifecycle.cancel(job.pk)
    lifecycle.reopen(job.pk, by="somebody")
    assert [event.sequence for event in log.history(job.pk, limit=2)] == [1, 2]
    assert [event.sequence for event in log.history(job.pk, after=2, limit=2)] == [3]
    assert log.history(job.pk, after=3) == []
