"""A thread's hand of jobs: how many it holds, when ends are written, and what becomes of those that wait in it."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from jobs import attempt, guard, kinds, lifecycle, runner
from jobs import hand as hand_module
from jobs.context import Context
from jobs.failures import JobFailure, LeaseLost, RetryAfter
from jobs.guard import Guard
from jobs.hand import LARGEST_HAND, MOST_UNWRITTEN, Hand, Run
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Outcome, Submission, Traded
from jobs.models import Event, Job, Status
from jobs.pace import HAND_SECONDS, Pace
from jobs.process import Process
from jobs.sql.statements import Want
from notifications import destinations
from notifications.models import Delivery, Webhook
from notifications.webhooks.signing import new_secret
from tests.factories import new_job, new_user
from tests.waiting import wait_until

if TYPE_CHECKING:
    from django.contrib.auth.models import User

QUICK, QUICK_TOO, SLOW, MEDIUM = "test.quick", "test.quick_too", "test.slow", "test.medium"
QUICK_SECONDS, MEDIUM_SECONDS, SLOW_SECONDS = 1e-5, 0.015, 1.0
CALLBACK = "https://1.1.1.1/callback"
ALL_EVENTS = ["job.accepted", "job.started", "job.log", "job.retrying", "job.completed", "job.failed", "job.cancelled"]

Handler = Callable[[Context, dict[str, Any]], Any]


class KnownPace(Pace):
    """Knows how long kinds take, whatever this machine is at."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = {
            QUICK: QUICK_SECONDS,
            QUICK_TOO: QUICK_SECONDS,
            MEDIUM: MEDIUM_SECONDS,
            SLOW: SLOW_SECONDS,
        }

    def note(self, kind: str, seconds: float) -> None:
        self._seconds.setdefault(kind, seconds)


@pytest.fixture(autouse=True)
def _own_kinds() -> Iterator[None]:
    for name in (QUICK, QUICK_TOO, SLOW, MEDIUM):
        kind(name)(lambda _context, _params: None)
    yield
    for name in (QUICK, QUICK_TOO, SLOW, MEDIUM):
        del kinds._registry[name]


@pytest.fixture
def _ends_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ends be grouped however slow this machine is."""
    monkeypatch.setattr(hand_module, "UNWRITTEN_SECONDS", 60.0)


def new_hand(process: Process | None = None, pace: Pace | None = None) -> Hand:
    return Hand("default", process or Process(), pace or KnownPace(), threading.Event())


def grown_hand(size: int = LARGEST_HAND) -> Hand:
    """Give a hand that asks for so many at once."""
    hand = new_hand()
    hand._size = size
    return hand


def submit(*names: str, owner: User | None = None, **values: Any) -> list[Job]:
    """Have jobs of these kinds accepted, in this order."""
    owner = owner or new_user()
    return lifecycle.accept([Submission(kind=get_kind(name), owner_id=owner.pk, **values) for name in names])


def handled_by(handler: Handler, name: str = QUICK) -> None:
    """Have a kind be handled so for the time of the test."""
    kind(name)(handler)


def next_job(hand: Hand) -> Job:
    job = hand.next(may_claim=True)
    assert job
    return job


def play_all(hand: Hand) -> list[Job]:
    played = []
    while job := hand.next(may_claim=True):
        hand.play(job)
        played.append(job)
    return played


def hands_of(hand: Hand) -> list[list[Job]]:
    """Have everything played that is due, and tell which jobs came together."""
    hands: list[list[Job]] = []
    while True:
        is_new = not hand.reserved
        job = hand.next(may_claim=True)
        if job is None:
            return hands
        if is_new:
            hands.append([job, *hand.reserved])
        hand.play(job)


def types_of(job: Job) -> list[str]:
    """Read a job's log by ids, which must rise with its sequences."""
    events = list(Event.objects.filter(job=job.pk).order_by("id"))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert Job.objects.get(pk=job.pk).sequence == len(events)
    return [event.type for event in events]


def statuses(jobs: Sequence[Job]) -> list[str]:
    by_id = Job.objects.in_bulk([job.pk for job in jobs])
    return [by_id[job.pk].status for job in jobs]


def code_of(job: Job) -> str | None:
    error = Job.objects.get(pk=job.pk).error
    return error["code"] if error else None


def end_lease(*jobs: Job) -> None:
    past = timezone.now() - timedelta(seconds=1)
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(lease_until=past)


def crashed_job(owner: User, name: str = QUICK) -> Job:
    """Give a job whose worker was lost once, due again."""
    (job,) = submit(name, owner=owner)
    (claimed,) = lifecycle.claim("default", uuid4())
    assert claimed.pk == job.pk
    end_lease(job)
    lifecycle.rescue(10)
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(10)
    return job


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# --- How many --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_hand_of_short_jobs_doubles_up_to_its_largest_size() -> None:
    jobs = submit(*[QUICK] * 100)
    hands = hands_of(new_hand())
    assert [len(each) for each in hands] == [1, 2, 4, 8, 16, 32, 32, 5]
    assert [job.pk for each in hands for job in each] == [job.pk for job in jobs]
    assert set(statuses(jobs)) == {Status.COMPLETED}
    assert {tuple(types_of(job)) for job in jobs} == {("job.accepted", "job.started", "job.completed")}


@pytest.mark.django_db
def test_a_hand_does_not_grow_where_it_is_not_full() -> None:
    hand = new_hand()
    for _ in range(6):
        submit(QUICK)
        play_all(hand)
    submit(*[QUICK] * 40)
    assert len(next(iter(hands_of(hand)))) <= 2


@pytest.mark.django_db
def test_the_first_of_a_hand_runs_and_nothing_is_told_of_the_others() -> None:
    jobs = submit(*[QUICK] * 4)
    hand = grown_hand(4)
    first = next_job(hand)
    assert first.pk == jobs[0].pk
    assert statuses(jobs) == [Status.RUNNING, *[Status.PENDING] * 3]
    assert [types_of(job) for job in jobs] == [["job.accepted", "job.started"], *[["job.accepted"]] * 3]
    for job in Job.objects.filter(status=Status.PENDING):
        assert (job.attempt, job.version, job.sequence, job.started_at) == (0, 1, 1, None)
        assert job.ready_at is not None
        assert job.lease_until is not None
        assert job.lease_until > timezone.now()


@pytest.mark.django_db
@pytest.mark.parametrize("name", [SLOW, "test.unknown"])
def test_a_kind_that_is_slow_or_unknown_is_claimed_alone(name: str) -> None:
    kind("test.unknown")(lambda _context, _params: None)
    try:
        submit(QUICK, QUICK, name, name, QUICK, QUICK)
        sizes = [len(each) for each in hands_of(grown_hand())]
    finally:
        del kinds._registry["test.unknown"]
    # Once an unknown kind has run, it is known to be quick.
    assert sizes[:3] == ([2, 1, 1] if name == SLOW else [2, 1, 3])


@pytest.mark.django_db
def test_a_job_with_one_attempt_is_claimed_alone() -> None:
    owner = new_user()
    submit(QUICK, QUICK, owner=owner)
    (once,) = submit(QUICK, owner=owner, max_attempts=1)
    submit(QUICK, QUICK, owner=owner)
    hands = hands_of(grown_hand())
    assert [len(each) for each in hands] == [2, 1, 2]
    assert hands[1][0].pk == once.pk


@pytest.mark.django_db(transaction=True)
def test_who_held_more_than_it_took_rings_for_those_that_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL locks as many rows as were asked for, before it sees that the first has to be alone."""
    once, *others = submit(QUICK, max_attempts=1), *submit(*[QUICK] * 3)
    rung: list[str] = []
    monkeypatch.setattr("jobs.doorbell.ring", lambda queue, count=1: rung.append(queue))
    found: list[Job] = []

    def look() -> None:
        found.extend(lifecycle.claim("default", uuid4(), 4, [QUICK]))

    with transaction.atomic():
        assert [job.pk for job in lifecycle.claim("default", uuid4(), 4, [QUICK])] == [once[0].pk]
        if connection.vendor == "postgresql":
            in_thread(look).join()
        assert rung == []
    assert found == []
    assert rung == (["default"] if connection.vendor == "postgresql" else [])
    assert [job.pk for job in lifecycle.claim("default", uuid4(), 4, [QUICK])] == [job.pk for job in others]
    assert len(rung) <= 1  # who took all that it held need not ring


@pytest.mark.django_db
def test_a_job_that_crashed_is_claimed_alone() -> None:
    owner = new_user()
    crashed = crashed_job(owner)
    submit(QUICK, QUICK, QUICK, owner=owner)
    hands = hands_of(grown_hand())
    assert [len(each) for each in hands] == [1, 3]
    assert hands[0][0].pk == crashed.pk


@pytest.mark.django_db
def test_what_lay_in_a_lost_workers_hand_is_claimed_alone() -> None:
    jobs = submit(*[QUICK] * 4)
    lifecycle.claim("default", uuid4(), 4, [QUICK])
    end_lease(*jobs)
    lifecycle.rescue(10)
    assert [len(each) for each in hands_of(grown_hand())] == [1, 1, 1, 1]
    assert set(Job.objects.values_list("status", "crashes", "attempt")) == {(Status.COMPLETED, 0, 1)}


@pytest.mark.django_db
def test_the_most_urgent_come_into_a_hand_first() -> None:
    owner = new_user()
    low, high = submit(QUICK, owner=owner, priority=-1), submit(QUICK, QUICK, owner=owner, priority=7)
    assert [job.pk for job in hands_of(grown_hand())[0]] == [job.pk for job in (*high, *low)]


@pytest.mark.django_db
def test_a_hand_holds_no_more_work_than_its_time() -> None:
    pace = KnownPace()
    pace._seconds[QUICK] = HAND_SECONDS / 3.5
    submit(*[QUICK] * 20)
    assert max(len(each) for each in hands_of(new_hand(pace=pace))) <= 3


@pytest.mark.django_db
def test_a_hand_that_grew_on_shorter_jobs_holds_no_more_work_than_its_time() -> None:
    """An urgent job waits for the whole hand, since no handler in it runs on long enough to have it given back."""
    submit(*[QUICK] * 63, *[MEDIUM] * 32)
    hands = hands_of(new_hand())
    work = [sum(MEDIUM_SECONDS if job.kind == MEDIUM else QUICK_SECONDS for job in each) for each in hands]
    assert max(work) <= 0.05


@pytest.mark.django_db
def test_run_times_are_averaged_and_a_kind_that_gets_slower_is_claimed_alone() -> None:
    pace = Pace()
    assert pace.quick_kinds() == []
    pace.note(QUICK, 0.001)
    assert pace.quick_kinds() == [QUICK]
    for _ in range(20):
        pace.note(QUICK, 0.1)
    assert pace.quick_kinds() == []
    for _ in range(40):
        pace.note(QUICK, 0.001)
    assert pace.quick_kinds() == [QUICK]


def test_threads_that_share_a_pace_do_not_disturb_each_other() -> None:
    pace, faults, is_over = Pace(), list[BaseException](), threading.Event()

    def read() -> None:
        try:
            while not is_over.is_set():
                pace.quick_kinds()
        except RuntimeError as fault:
            faults.append(fault)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for each in readers:
            each.start()
        for number in range(3000):
            pace.note(f"test.kind{number}", 0.001)
        is_over.set()
        for each in readers:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []


@pytest.mark.django_db
def test_a_run_that_ends_while_the_guard_asks_costs_no_guard() -> None:
    """It ends between two looks at it."""
    (job,) = submit(QUICK)
    ends = Ends(
        Run(job=job, context=Context(job), begun={}, began_at=0, version=1, next_beat=0, next_write=0, held_at=0)
    )
    hand = Hand("default", Process(), Pace(), threading.Event())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hand, "run", ends, raising=False)
        assert hand.has_more
    assert ends.reads == 1


class Ends:
    """A hand's run that is gone at the second look."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.reads = 0

    def __get__(self, hand: Hand, owner: type[Hand]) -> Run | None:
        self.reads += 1
        return self.run if self.reads == 1 else None

    def __set__(self, hand: Hand, run: Run | None) -> None:
        raise AssertionError("nobody changes it here")


def test_a_guard_that_stumbles_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it stumbles over, and wherever in its round."""
    watchman, faults, looks = Guard(Process()), {"pause", "look"}, list[None]()

    def stumble_once(at: str) -> None:
        if at in faults:
            faults.remove(at)
            raise RuntimeError(at)

    def pause() -> float:
        stumble_once("pause")
        return 0.0

    def look() -> None:
        stumble_once("look")
        looks.append(None)

    monkeypatch.setattr(watchman, "_tell_seen", lambda: None)
    monkeypatch.setattr(watchman, "_pause", pause)
    monkeypatch.setattr(watchman, "look", look)
    watchman.start()
    try:
        wait_until(lambda: bool(looks), 10)
    finally:
        watchman.close()
    assert [record.message for record in caplog.records if record.name == "jobs.guard"] == ["The guard stumbled"] * 2


# --- When ends are written -------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_ends_are_written_together_with_the_next_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    trades: list[tuple[int, bool]] = []
    real = lifecycle.trade

    def noting(outcomes: Sequence[Outcome], want: Want | None) -> Traded:
        trades.append((len(outcomes), want is not None))
        return real(outcomes, want)

    monkeypatch.setattr(lifecycle, "trade", noting)
    submit(*[QUICK] * 12)
    play_all(new_hand())
    assert trades == [(0, True), (1, True), (2, True), (4, True), (5, True)]


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_an_end_is_told_once_its_hand_is_played() -> None:
    jobs = submit(*[QUICK] * 3)
    hand = grown_hand(3)
    for _ in range(3):
        hand.play(next_job(hand))
    assert statuses(jobs) == [Status.RUNNING, Status.PENDING, Status.PENDING]
    assert hand.next(may_claim=True) is None
    assert set(statuses(jobs)) == {Status.COMPLETED}


@pytest.mark.django_db
def test_an_end_that_has_waited_is_written_before_the_next_job_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_module, "UNWRITTEN_SECONDS", 0.0)
    jobs = submit(*[QUICK] * 3)
    hand = grown_hand(3)
    hand.play(next_job(hand))
    second = next_job(hand)
    assert statuses(jobs) == [Status.COMPLETED, Status.PENDING, Status.PENDING]
    assert second.pk == jobs[1].pk


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_no_more_ends_wait_than_may_be_lost() -> None:
    submit(*[QUICK] * 200)
    hand, most = new_hand(), 0
    while job := hand.next(may_claim=True):
        hand.play(job)
        most = max(most, len(hand._ended))
    assert most <= MOST_UNWRITTEN


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_times_are_those_of_the_handlers_though_they_are_written_later() -> None:
    spans: dict[UUID, tuple[datetime, datetime]] = {}

    def handler(context: Context, _params: dict[str, Any]) -> None:
        begun = timezone.now()
        time.sleep(0.05)
        spans[context.job_id] = begun, timezone.now()

    handled_by(handler)
    jobs = submit(*[QUICK] * 5)
    play_all(grown_hand(5))
    near = timedelta(seconds=0.03)
    for job in Job.objects.filter(pk__in=[job.pk for job in jobs[1:]]):
        begun, ended = spans[job.pk]
        assert job.started_at is not None
        assert job.finished_at is not None
        assert abs(job.started_at - begun) < near
        assert abs(job.finished_at - ended) < near
        _, started, completed = Event.objects.filter(job=job.pk).order_by("sequence")
        assert (started.at, completed.at) == (job.started_at, job.finished_at)
        assert datetime.fromisoformat(started.data["startedAt"]) == job.started_at
        assert datetime.fromisoformat(completed.data["finishedAt"]) == job.finished_at
        assert datetime.fromisoformat(completed.data["startedAt"]) == job.started_at


@pytest.mark.django_db(transaction=True)
def test_times_are_those_of_the_handler_though_another_writer_was_waited_for() -> None:
    (job,) = submit(QUICK)
    hand = new_hand()
    hand.play(next_job(hand))
    ended = timezone.now()
    is_held, seconds = threading.Event(), 0.5

    def hold() -> None:
        with transaction.atomic():
            Job.objects.select_for_update().get(pk=job.pk)
            is_held.set()
            time.sleep(seconds)

    holder = in_thread(hold)
    assert is_held.wait(timeout=5)
    assert hand.next(may_claim=False) is None
    holder.join()
    job.refresh_from_db()
    assert job.finished_at is not None
    assert timezone.now() - ended > timedelta(seconds=seconds * 0.8)
    assert abs(job.finished_at - ended) < timedelta(seconds=seconds / 2)


@pytest.mark.django_db
def test_a_reserved_jobs_log_stands_after_its_begin_and_before_its_end() -> None:
    def handler(context: Context, _params: dict[str, Any]) -> str:
        context.log("one")
        context.progress(50, "half")
        context.log("two", "warning")
        return "done"

    handled_by(handler)
    jobs = submit(*[QUICK] * 4)
    play_all(grown_hand(4))
    for job in jobs:
        assert types_of(job) == ["job.accepted", "job.started", "job.log", "job.log", "job.completed"]
        lines = [event.data["log"]["message"] for event in Event.objects.filter(job=job.pk, type="job.log")]
        assert lines == ["one", "two"]
        job.refresh_from_db()
        assert (job.result, job.log_lines, job.attempt) == ("done", 2, 1)
        assert job.progress is not None
        assert (job.progress["percent"], job.progress["message"]) == (50.0, "half")
        versions = list(Event.objects.filter(job=job.pk).order_by("id").values_list("data__version", flat=True))
        assert versions == sorted(versions)
        assert job.version >= versions[-1]


@pytest.mark.django_db
def test_events_that_are_written_late_say_what_others_say() -> None:
    jobs = submit(*[QUICK] * 2)
    play_all(grown_hand(2))
    begun, reserved = ({each.type: each.data for each in Event.objects.filter(job=job.pk)} for job in jobs)
    for name in ("job.accepted", "job.started", "job.completed"):
        assert {key for key, value in begun[name].items() if value is not None} == {
            key for key, value in reserved[name].items() if value is not None
        }
        assert set(begun[name]) == set(reserved[name])
    assert (reserved["job.started"]["status"], reserved["job.started"]["attempt"]) == (Status.RUNNING, 1)
    assert reserved["job.started"]["finishedAt"] is None


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_hand_whose_jobs_end_in_all_ways_tells_of_each() -> None:
    def handler(context: Context, _params: dict[str, Any]) -> str:
        how = ways[[job.pk for job in jobs].index(context.job_id)]
        if how == "fails":
            raise JobFailure("broken", "It broke.")
        if how == "is tried again":
            raise RetryAfter(60)
        if how == "raises":
            raise ValueError
        return how

    ways = ["completes", "fails", "is tried again", "raises", "completes"]
    handled_by(handler)
    jobs = submit(*[QUICK] * 5, max_attempts=2)
    play_all(grown_hand(5))
    started = ["job.accepted", "job.started"]
    assert [types_of(job) for job in jobs] == [
        [*started, "job.completed"],
        [*started, "job.failed"],
        [*started, "job.retrying"],
        [*started, "job.retrying"],
        [*started, "job.completed"],
    ]
    rows = Job.objects.in_bulk([job.pk for job in jobs])
    assert [(rows[job.pk].attempt, rows[job.pk].failures) for job in jobs] == [(1, 0), (1, 1), (1, 1), (1, 1), (1, 0)]
    assert all(rows[job.pk].worker is None and rows[job.pk].lease_until is None for job in jobs)


# --- Giving back -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_who_may_claim_no_more_gives_the_hand_back_and_writes_what_has_ended() -> None:
    jobs = submit(*[QUICK] * 5)
    before = {job.pk: (job.turn, job.ready_at, job.version) for job in Job.objects.all()}
    hand = grown_hand(4)
    for _ in range(2):
        hand.play(next_job(hand))
    assert hand.next(may_claim=False) is None
    assert statuses(jobs) == [*[Status.COMPLETED] * 2, *[Status.PENDING] * 3]
    for job in Job.objects.filter(status=Status.PENDING):
        assert (job.worker, job.lease_until, job.attempt, job.crashes) == (None, None, 0, 0)
        assert (job.turn, job.ready_at, job.version) == before[job.pk]
        assert types_of(job) == ["job.accepted"]
    again = lifecycle.claim("default", uuid4(), 10, [QUICK])
    assert [job.pk for job in again] == [job.pk for job in jobs[2:]]


@contextmanager
def looked_after(hand: Hand) -> Iterator[Guard]:
    """Give a guard of this hand that looks when it is told to."""
    watchman = Guard(Process())
    with watchman.watching(hand):
        yield watchman


def run_on(hand: Hand, watchman: Guard) -> None:
    """From inside a handler: as if it had run for a while and the guard had looked."""
    assert hand.run
    hand.run.began_at -= guard.RUNS_ON_SECONDS * 2
    watchman.look()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_handler_that_runs_on_holds_nobody_up(place: int) -> None:
    seen: list[list[str]] = []

    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.job_id == jobs[place].pk:
            run_on(hand, watchman)
            seen.append(statuses(jobs))
            mine = Job.objects.get(pk=context.job_id)
            assert (mine.status, mine.attempt, mine.alone) == (Status.RUNNING, 1, True)
            assert mine.started_at is not None
            assert types_of(mine) == ["job.accepted", "job.started"]
            assert not Job.objects.filter(status=Status.PENDING, worker__isnull=False).exists()
            free = lifecycle.claim("default", uuid4(), 10, [QUICK])
            assert [job.pk for job in free] == [job.pk for job in jobs[place + 1 :]]
            lifecycle.give_back(free[1:])
            for job in free[:1]:
                lifecycle.release(job)
        return "done"

    handled_by(handler)
    jobs = submit(*[QUICK] * 4)
    hand = grown_hand(4)
    with looked_after(hand) as watchman:
        played = play_all(hand)
    assert seen == [[*[Status.COMPLETED] * place, Status.RUNNING, *[Status.PENDING] * (3 - place)]]
    assert [job.pk for job in played] == [job.pk for job in jobs]
    assert set(Job.objects.values_list("status", "result", "attempt")) == {(Status.COMPLETED, "done", 1)}
    for job in jobs:
        assert types_of(job)[-2:] == ["job.started", "job.completed"]


@pytest.mark.django_db(transaction=True)
def test_a_handler_that_returns_soon_is_left_alone_by_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RUNS_ON_SECONDS", 60.0)

    def handler(_context: Context, _params: dict[str, Any]) -> None:
        watchman.look()
        in_hand.append(Job.objects.filter(worker__isnull=False).count())

    in_hand: list[int] = []
    handled_by(handler)
    submit(*[QUICK] * 3)
    hand = grown_hand(3)
    with looked_after(hand) as watchman:
        play_all(hand)
    assert in_hand[0] == 3


@pytest.mark.django_db(transaction=True)
def test_a_job_that_runs_on_after_it_was_taken_by_another_is_told_so() -> None:
    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.job_id == jobs[1].pk and not taken:
            end_lease(*jobs)
            taken.extend(job for job in claimed_by_others() if job.pk == context.job_id)
            run_on(hand, watchman)
            with pytest.raises(LeaseLost):
                context.check_cancelled()
        return "stale"

    def claimed_by_others() -> list[Job]:
        return [job for _ in jobs for job in lifecycle.claim("default", uuid4())]

    taken: list[Job] = []
    handled_by(handler)
    jobs = submit(*[QUICK] * 3)
    hand = grown_hand(3)
    with looked_after(hand) as watchman:
        for _ in range(2):
            hand.play(next_job(hand))
        hand.next(may_claim=False)
    assert [job.pk for job in taken] == [jobs[1].pk]
    assert lifecycle.finish([Outcome(job=taken[0], result="fresh")]) == {jobs[1].pk}
    jobs[1].refresh_from_db()
    assert (jobs[1].result, jobs[1].attempt) == ("fresh", 1)
    assert types_of(jobs[1]) == ["job.accepted", "job.started", "job.completed"]


@pytest.mark.django_db(transaction=True)
def test_the_crash_of_a_job_that_ran_on_counts_and_no_others_does() -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        run_on(hand, watchman)
        raise KeyboardInterrupt  # the worker is lost

    handled_by(handler)
    jobs = submit(*[QUICK] * 3)
    hand = grown_hand(3)
    with looked_after(hand) as watchman, pytest.raises(KeyboardInterrupt):
        hand.play(next_job(hand))
    end_lease(jobs[0])
    assert lifecycle.rescue(10) == 1
    rows = Job.objects.in_bulk([job.pk for job in jobs])
    assert [rows[job.pk].crashes for job in jobs] == [1, 0, 0]


@pytest.mark.django_db(transaction=True)
def test_others_get_what_waits_behind_a_long_handler_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def handler(context: Context, _params: dict[str, Any]) -> None:
        if context.job_id == jobs[2].pk:
            assert may_end.wait(timeout=20)

    handled_by(handler)
    jobs = submit(*[QUICK] * 5)
    watchman = Guard(Process())
    monkeypatch.setattr(runner, "guard", lambda: watchman)
    monkeypatch.setattr(runner, "_pace", KnownPace())
    watchman.start()
    try:
        worker = in_thread(lambda: runner.work("default"))
        # The hand holds 1, then 2, then 2: the third is the first of its hand, or waits in it for the second.
        wait_until(lambda: statuses(jobs)[:3] == [Status.COMPLETED, Status.COMPLETED, Status.RUNNING], 5)
        wait_until(lambda: not Job.objects.filter(status=Status.PENDING, worker__isnull=False).exists(), 2)
        others = lifecycle.claim("default", uuid4(), 10, [QUICK])
        assert [job.pk for job in others] == [job.pk for job in jobs[3:]]
        assert types_of(jobs[2]) == ["job.accepted", "job.started"]
        may_end.set()
        worker.join()
    finally:
        may_end.set()
        watchman.close()
    assert statuses(jobs[:3]) == [Status.COMPLETED] * 3


# --- Fences ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_jobs_that_were_lost_from_a_hand_are_fenced_and_the_others_ends_take() -> None:
    owner = new_user()
    jobs = submit(*[QUICK] * 6, owner=owner, start_within_seconds=600)
    kept, cancelled, expired, taken, rescued, kept_too = jobs
    handled_by(lambda _context, _params: "from the hand")
    hand = grown_hand(6)
    first = next_job(hand)
    lifecycle.cancel(cancelled.pk)
    end_lease(expired, taken, rescued)
    Job.objects.filter(pk=expired.pk).update(start_by=timezone.now() - timedelta(seconds=1))
    assert lifecycle.expire(10) == 1
    fresh = lifecycle.claim("default", uuid4())[0]
    assert fresh.pk == taken.pk
    again = lifecycle.claim("default", uuid4())[0]
    assert again.pk == rescued.pk
    end_lease(rescued)
    lifecycle.rescue(10)
    hand.play(first)
    while job := hand.next(may_claim=bool(hand.reserved)):
        hand.play(job)
    assert statuses(jobs) == [
        Status.COMPLETED,
        Status.CANCELLED,
        Status.FAILED,
        Status.RUNNING,
        Status.PENDING,
        Status.COMPLETED,
    ]
    assert types_of(cancelled) == ["job.accepted", "job.cancelled"]
    assert types_of(expired) == ["job.accepted", "job.failed"]
    assert types_of(taken) == ["job.accepted", "job.started"]
    assert types_of(kept) == types_of(kept_too) == ["job.accepted", "job.started", "job.completed"]
    assert lifecycle.finish([Outcome(job=fresh, result="fresh")]) == {taken.pk}
    assert {job.result for job in Job.objects.filter(pk__in=[kept.pk, kept_too.pk])} == {"from the hand"}
    assert Job.objects.get(pk=taken.pk).result == "fresh"


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_worker_that_stood_still_for_longer_than_its_lease_ends_nothing_twice() -> None:
    handled_by(lambda context, _params: f"fence {context._job.fence}")
    jobs = submit(*[QUICK] * 8)
    stopped = grown_hand(8)
    for _ in range(4):
        stopped.play(next_job(stopped))
    end_lease(*jobs)
    assert lifecycle.rescue(10) == 1
    play_all(new_hand())
    assert set(statuses(jobs)) == {Status.COMPLETED}
    while job := stopped.next(may_claim=bool(stopped.reserved)):
        stopped.play(job)
    for job in jobs:
        job.refresh_from_db()
        assert (job.result, job.attempt, job.crashes) == ("fence 2", 1, 0)
        assert types_of(job)[-1] == "job.completed"
        assert types_of(job).count("job.completed") == 1


@pytest.mark.django_db
def test_a_reserved_job_whose_lease_is_over_is_free_without_a_sweeper() -> None:
    jobs = submit(*[QUICK] * 3)
    lifecycle.claim("default", uuid4(), 3, [QUICK])
    assert lifecycle.claim("default", uuid4(), 3, [QUICK]) == []
    end_lease(*jobs)
    assert [job.pk for job in lifecycle.claim("default", uuid4(), 3, [QUICK])] == [jobs[1].pk]


# --- What a database refuses, and one that is away -------------------------------------------------------------------


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_end_that_the_database_refuses_fails_its_own_job_only(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(attempt, "checked_result", lambda result: result)  # let one slip through
    jobs = submit(*[QUICK] * 5)
    handled_by(lambda context, _params: "NUL \0" if context.job_id == jobs[place].pk else "fine")
    play_all(grown_hand(5))
    expected = [Status.COMPLETED] * 5
    expected[place] = Status.FAILED
    assert statuses(jobs) == expected
    assert code_of(jobs[place]) == "result_invalid"
    assert types_of(jobs[place]) == ["job.accepted", "job.started", "job.failed"]
    assert [Job.objects.get(pk=job.pk).attempt for job in jobs] == [1] * 5


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
def test_an_end_that_the_database_refuses_fails_its_job_while_another_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "checked_result", lambda result: result)

    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.job_id == jobs[2].pk:
            run_on(hand, watchman)
            seen.extend(statuses(jobs))
        return "NUL \0" if context.job_id == jobs[0].pk else "fine"

    seen: list[str] = []
    jobs = submit(*[QUICK] * 4)
    handled_by(handler)
    hand = grown_hand(4)
    with looked_after(hand) as watchman:
        play_all(hand)
    assert seen == [Status.FAILED, Status.COMPLETED, Status.RUNNING, Status.PENDING]
    assert statuses(jobs) == [Status.FAILED, *[Status.COMPLETED] * 3]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
@pytest.mark.parametrize("seconds", [1e12, 1e300, float("inf"), float("nan"), -5.0], ids=str)
def test_a_pause_that_is_no_time_harms_no_other_job_in_the_hand(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(hand_module, "LEASE_SECONDS", 0.5)  # so long a worker tries to write what can't be written
    monkeypatch.setattr(hand_module, "RETRY_PAUSE_SECONDS", 0.1)

    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.job_id == jobs[1].pk:
            raise JobFailure("busy", "Try again.", retry=True, retry_after=seconds)
        return "fine"

    jobs = submit(*[QUICK] * 3)
    handled_by(handler)
    play_all(grown_hand(3))
    assert statuses([jobs[0], jobs[2]]) == [Status.COMPLETED] * 2
    assert Job.objects.get(pk=jobs[1].pk).worker is None


@contextmanager
def away_once(monkeypatch: pytest.MonkeyPatch, name: str, is_meant: Callable[..., bool]) -> Iterator[list[str]]:
    """Have a function of the life cycle find the database away the first time it is called so."""
    real, failed = getattr(lifecycle, name), list[str]()

    def failing(*args: Any, **options: Any) -> Any:
        if not failed and is_meant(*args):
            failed.append(name)
            raise OperationalError("the database is away")
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, name, failing)
        patch.setattr(hand_module, "RETRY_PAUSE_SECONDS", 0.01)
        yield failed


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
def test_ends_are_kept_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = submit(*[QUICK] * 7)
    with away_once(monkeypatch, "trade", lambda outcomes, want: bool(outcomes and want)) as failed:
        play_all(grown_hand(4))
    assert failed == ["trade"]
    assert set(statuses(jobs)) == {Status.COMPLETED}
    assert {tuple(types_of(job)) for job in jobs} == {("job.accepted", "job.started", "job.completed")}


@pytest.mark.django_db(transaction=True)
def test_ends_that_are_written_in_the_middle_of_a_hand_are_kept_while_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hand_module, "UNWRITTEN_SECONDS", 0.0)
    jobs = submit(*[QUICK] * 4)
    with away_once(monkeypatch, "trade", lambda outcomes, want: bool(outcomes and not want)) as failed:
        play_all(grown_hand(4))
    assert failed == ["trade"]
    assert set(statuses(jobs)) == {Status.COMPLETED}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
def test_ends_are_kept_though_the_database_is_away_when_the_hand_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = submit(*[QUICK] * 4)
    hand = grown_hand(4)
    hand.play(next_job(hand))
    with away_once(monkeypatch, "give_back", lambda _jobs: True) as failed:
        assert hand.next(may_claim=False) is None
    assert failed == ["give_back"]
    assert statuses(jobs) == [Status.COMPLETED, *[Status.PENDING] * 3]
    assert not Job.objects.filter(worker__isnull=False).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
@pytest.mark.parametrize("name", ["give_back", "trade", "begin", "stand_alone"])
def test_the_guard_comes_back_to_what_it_could_not_write(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whichever write failed, at the next look all is as if none had."""
    place = 0 if name == "stand_alone" else 1

    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.job_id == jobs[place].pk:
            with away_once(monkeypatch, name, lambda *_: True) as failed:
                run_on(hand, watchman)
                run_on(hand, watchman)
            seen.append((failed, statuses(jobs), Job.objects.get(pk=context.job_id).alone))
            reserved.extend(Job.objects.filter(status=Status.PENDING, worker__isnull=False))
        return "done"

    seen: list[tuple[list[str], list[str], bool]] = []
    reserved: list[Job] = []
    handled_by(handler)
    jobs = submit(*[QUICK] * 3)
    hand = grown_hand(3)
    with looked_after(hand) as watchman:
        play_all(hand)
    stood = [*[Status.COMPLETED] * place, Status.RUNNING, *[Status.PENDING] * (2 - place)]
    assert (seen, reserved) == ([([name], stood, True)], [])
    assert set(statuses(jobs)) == {Status.COMPLETED}


@pytest.mark.django_db(transaction=True)
def test_a_claim_that_took_though_its_commit_seemed_to_fail_is_not_held_unknowingly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = submit(*[QUICK] * 3)
    real, broken = lifecycle.trade, list[bool]()

    def breaking(outcomes: Sequence[Outcome], want: Want | None) -> Traded:
        traded = real(outcomes, want)
        if not broken and len(traded.claimed) == 3:
            broken.append(True)
            raise OperationalError("the connection broke at COMMIT")
        return traded

    monkeypatch.setattr(lifecycle, "trade", breaking)
    first = next_job(grown_hand(3))
    assert broken == [True]
    assert first.pk == jobs[0].pk
    assert not Job.objects.filter(status=Status.RUNNING).exclude(pk=first.pk).exists()
    assert first.attempt == 1


# --- Deliveries ------------------------------------------------------------------------------------------------------


def with_webhook(*types: str) -> User:
    owner, url = new_user(), "https://1.1.1.1/hook"
    Webhook.objects.create(
        owner=owner,
        endpoint=destinations.endpoint_for(owner.pk, url),
        url=url,
        event_types=list(types or ["job.*"]),
        secret=new_secret(),
    )
    return owner


def heard() -> dict[UUID, list[tuple[str, str]]]:
    """List by job what is delivered where, in the order of the events."""
    told: dict[UUID, list[tuple[str, str]]] = defaultdict(list)
    for each in Delivery.objects.order_by("event", "id").select_related("event"):
        assert each.job_id
        assert each.event.job_id == each.job_id
        told[each.job_id].append((each.url.rpartition("/")[2], each.event.type))
    return told


def five_for_deliveries() -> list[Job]:
    """One job for the front of a hand, and one each of every way in which somebody hears, or nobody does."""
    return [
        *submit(QUICK),
        *submit(QUICK, callback_url=CALLBACK, callback_events=["job.started", "job.completed"]),
        *submit(QUICK, owner=with_webhook()),
        *submit(QUICK, owner=with_webhook("job.failed")),
        *submit(QUICK),
    ]


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_who_listens_hears_of_the_begin_and_end_of_a_reserved_job_and_nobody_else_does() -> None:
    jobs = five_for_deliveries()
    hand = grown_hand(5)
    assert [next_job(hand).pk, *[job.pk for job in hand.reserved]] == [job.pk for job in jobs]
    hand.give_back()
    lifecycle.release(Job.objects.get(status=Status.RUNNING))
    Delivery.objects.all().delete()
    play_all(grown_hand(5))
    assert heard() == {
        jobs[1].pk: [("callback", "job.started"), ("callback", "job.completed")],
        jobs[2].pk: [("hook", "job.started"), ("hook", "job.completed")],
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_ends_may_wait")
def test_who_listens_hears_of_every_event_once_however_it_was_written() -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        context.log("a line")
        if context.job_id == jobs[1].pk:
            run_on(hand, watchman)
        if context.attempt == 1:
            raise RetryAfter(0)

    handled_by(handler)
    jobs = [job for _ in range(4) for job in submit(QUICK, callback_url=CALLBACK, callback_events=ALL_EVENTS)]
    hand = grown_hand(4)
    with looked_after(hand) as watchman:
        for _ in range(2):
            play_all(hand)
            Job.objects.filter(status=Status.PENDING).update(run_at=timezone.now() - timedelta(seconds=1))
            lifecycle.promote(10)
    told = heard()
    for job in jobs:
        assert types_of(job) == [
            "job.accepted",
            "job.started",
            "job.log",
            "job.retrying",
            "job.started",
            "job.log",
            "job.completed",
        ]
        assert [name for _, name in told[job.pk]] == types_of(job)


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_ends_and_their_deliveries_are_written_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = five_for_deliveries()
    hand = lifecycle.claim("default", uuid4(), 5, [QUICK])
    outcomes = []
    for job in hand:
        begun = lifecycle.foresee_begin(job) if job.status == Status.PENDING else None
        outcomes.append(Outcome(job=job, begun=begun, began_at=time.monotonic()))
    rows, events = list(Job.objects.order_by("pk").values()), Event.objects.count()

    def refuse(_deliveries: Collection[Delivery]) -> None:
        raise RuntimeError("no room for deliveries")

    with monkeypatch.context() as patch:
        patch.setattr(Delivery.objects, "bulk_create", refuse)
        with pytest.raises(RuntimeError):
            lifecycle.finish(outcomes)
    assert list(Job.objects.order_by("pk").values()) == rows
    assert (Event.objects.count(), Delivery.objects.filter(event__type="job.started").count()) == (events, 0)
    assert lifecycle.finish(outcomes) == {job.pk for job in jobs}
    assert Delivery.objects.filter(event__type="job.completed").count() == 2


@pytest.mark.django_db
def test_a_webhook_that_comes_while_a_job_waits_in_hand_hears_of_its_begin() -> None:
    owner = new_user()
    jobs = submit(QUICK, QUICK, owner=owner)
    hand = lifecycle.claim("default", uuid4(), 2, [QUICK])
    url = "https://1.1.1.1/hook"
    Webhook.objects.create(
        owner=owner,
        endpoint=destinations.endpoint_for(owner.pk, url),
        url=url,
        event_types=["job.*"],
        secret=new_secret(),
    )
    begun = lifecycle.foresee_begin(hand[1])
    lifecycle.finish([Outcome(job=hand[0]), Outcome(job=hand[1], begun=begun, began_at=time.monotonic())])
    assert heard() == {
        jobs[0].pk: [("hook", "job.completed")],
        jobs[1].pk: [("hook", "job.started"), ("hook", "job.completed")],
    }


# --- Order of the whole log ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_ids_rise_with_the_sequences_of_each_job_whatever_a_hand_did() -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        if context.job_id in loud:
            context.log("a line")
        if context.job_id in failing and context.attempt < 3:
            raise RetryAfter(0)

    handled_by(handler)
    owner = new_user()
    jobs = submit(*[QUICK] * 40, owner=owner)
    loud = {job.pk for job in jobs[::7]}
    failing = {job.pk for job in jobs[::5]}
    hand = new_hand()
    for _ in range(3):
        play_all(hand)
        Job.objects.filter(status=Status.PENDING).update(run_at=timezone.now() - timedelta(seconds=1))
        lifecycle.promote(100)
    for job in jobs:
        types = types_of(job)
        assert types.count("job.started") == (3 if job.pk in failing else 1)
        assert types.count("job.log") == types.count("job.started") * (job.pk in loud)
        assert types[-1] == "job.completed"


@pytest.mark.django_db
def test_a_job_in_hand_is_shown_as_pending_and_can_be_read() -> None:
    owner = new_user()
    submit(QUICK, owner=owner)
    job = new_job(owner, QUICK, params={})
    lifecycle.claim("default", uuid4(), 2, [QUICK])
    job.refresh_from_db()
    assert (job.status, job.attempt, job.started_at, job.is_final) == (Status.PENDING, 0, None, False)
    assert lifecycle.cancel(job.pk).status == Status.CANCELLED
    assert Job.objects.get(pk=job.pk).worker is None
