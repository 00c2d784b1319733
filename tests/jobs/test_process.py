"""What a worker process leaves behind: a killed child's hand to its successor, and nothing after an orderly end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from jobs import hand as hand_module
from jobs import kinds, lifecycle, process, runner
from jobs.context import Context
from jobs.guard import Guard
from jobs.hand import Hand
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Outcome, Submission
from jobs.models import Event, Job, Status, Worker
from jobs.pace import Pace
from jobs.process import SEATS, Left, Process, Seat
from tests.factories import new_user

QUICK = "test.quick"
PLACE = 900
"""Of the tests' seats: no worker runs in this process."""

Handler = Callable[[Context, dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _own_kind() -> Iterator[None]:
    kind(QUICK)(lambda _context, _params: None)
    yield
    del kinds._registry[QUICK]


@pytest.fixture(autouse=True)
def _empty_seats() -> Iterator[None]:
    yield
    for place in (0, PLACE, PLACE + 1, SEATS - 1):
        Seat(place).leave()


@pytest.fixture
def _ends_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ends be grouped however slow this machine is."""
    monkeypatch.setattr(hand_module, "UNWRITTEN_SECONDS", 60.0)


# --- The seat --------------------------------------------------------------------------------------------------------


def forked(child: Callable[[], None]) -> int:
    """Run a function in a child that ends without anything that Python does at its end, and give its status."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


in_a_child = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@in_a_child
def test_a_killed_child_leaves_word_of_who_it_was_and_what_ran() -> None:
    own, job = uuid4(), uuid4()

    def child() -> None:
        seat = Seat(PLACE)
        assert seat.take(own) is None
        seat.note_running(job)
        killed()

    assert os.WTERMSIG(forked(child)) == signal.SIGKILL
    assert Seat(PLACE).take(uuid4()) == Left(worker=own, running=job)


@in_a_child
def test_a_child_that_is_killed_between_two_jobs_ran_none() -> None:
    own, job = uuid4(), uuid4()

    def child() -> None:
        seat = Seat(PLACE)
        seat.take(own)
        seat.note_running(job)
        seat.note_running(None)
        killed()

    forked(child)
    assert Seat(PLACE).take(uuid4()) == Left(worker=own, running=None)


@in_a_child
def test_a_child_that_ended_in_good_order_leaves_nothing() -> None:
    def child() -> None:
        seat = Seat(PLACE)
        seat.take(uuid4())
        seat.note_running(uuid4())
        seat.leave()

    assert forked(child) == 0
    assert Seat(PLACE).take(uuid4()) is None


@in_a_child
def test_a_child_that_was_killed_before_its_first_hand_held_nothing() -> None:
    first, second = uuid4(), uuid4()

    def child(own: UUID, job: UUID | None) -> None:
        seat = Seat(PLACE)
        seat.take(own)
        if job:
            seat.note_running(job)
        killed()

    forked(lambda: child(first, uuid4()))
    forked(lambda: child(second, None))
    assert Seat(PLACE).take(uuid4()) == Left(worker=second, running=None)


def test_seats_do_not_touch_each_other() -> None:
    owns = {place: uuid4() for place in (0, PLACE, PLACE + 1, SEATS - 1)}
    running = {place: uuid4() for place in owns}
    for place, own in owns.items():
        seat = Seat(place)
        seat.take(own)
        seat.note_running(running[place])
    Seat(PLACE + 1).leave()
    for place, own in owns.items():
        left = Seat(place).take(uuid4())
        if place == PLACE + 1:
            assert left is None
        else:
            assert left == Left(worker=own, running=running[place])


@in_a_child
def test_a_child_has_an_identity_of_its_own_and_hears_its_parent_stop() -> None:
    here = process.this_process()

    def child() -> None:
        there = process.this_process()
        Seat(PLACE).take(there.id)
        if process.is_stopping() or there.id == here.id or there is not process.this_process():
            Seat(PLACE).leave()

    forked(child)
    left = Seat(PLACE).take(uuid4())
    assert left is not None
    assert left.worker != here.id
    process.tell_to_stop()
    try:
        status = forked(lambda: os._exit(7 if process.is_stopping() else 0))
    finally:
        process._stop_sign.value = 0
    assert os.waitstatus_to_exitcode(status) == 7


# --- What its successor does -----------------------------------------------------------------------------------------


def submit(count: int, **values: Any) -> list[Job]:
    one = Submission(kind=get_kind(QUICK), owner_id=new_user().pk, **values)
    return lifecycle.accept([one] * count)


class QuickPace(Pace):
    """Holds everything for quick."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = {QUICK: 1e-5}

    def note(self, kind: str, seconds: float) -> None:
        """Learn nothing."""


def seated_hand(size: int) -> Hand:
    """Give a hand in a process that sits in a pool, which asks for so many jobs at once."""
    seated = Process(seat=Seat(PLACE))
    assert seated.seat
    seated.seat.take(seated.id)
    hand = Hand("default", seated, QuickPace(), threading.Event())
    hand._size = size
    return hand


def play_all(hand: Hand) -> None:
    while job := hand.next(may_claim=True):
        hand.play(job)


def play_until_killed(hand: Hand, handler: Handler) -> None:
    """Play until a handler says that this is where the process is killed."""
    kind(QUICK)(handler)
    with pytest.raises(KeyboardInterrupt):
        play_all(hand)
    kind(QUICK)(lambda _context, _params: None)


def dies_in(job: Job) -> Handler:
    """Give a handler in which the process is killed when it comes to this job: nothing of ours runs any more."""

    def handler(context: Context, _params: dict[str, Any]) -> None:
        if context.job_id == job.pk:
            raise KeyboardInterrupt

    return handler


def succeed() -> int:
    """Have a new child take the killed one's seat."""
    left = Seat(PLACE).take(uuid4())
    assert left is not None
    return lifecycle.rescue_worker(left.worker, left.running, ["default"])


def read(jobs: list[Job]) -> list[Job]:
    rows = Job.objects.in_bulk([job.pk for job in jobs])
    return [rows[job.pk] for job in jobs]


def types_of(job: Job) -> list[str]:
    events = list(Event.objects.filter(job=job.pk).order_by("id"))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


def drain() -> None:
    """Have healthy workers and a sweeper bring everything to its end."""
    while Job.objects.filter(status=Status.PENDING).exists():
        Job.objects.filter(ready_at__isnull=True).update(run_at=timezone.now() - timedelta(seconds=1))
        lifecycle.promote(100)
        for job in lifecycle.claim("default", uuid4()):
            lifecycle.finish([Outcome(job=job, result="by another")])


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
@pytest.mark.parametrize("place", [0, 3, 7])
def test_only_the_job_that_ran_when_its_child_was_killed_counts_a_crash(place: int) -> None:
    jobs = submit(10)
    play_until_killed(seated_hand(8), dies_in(jobs[place]))
    assert succeed() == 8
    rows = read(jobs)
    assert [job.crashes for job in rows] == [int(job.pk == jobs[place].pk) for job in jobs]
    assert {job.status for job in rows} == {Status.PENDING}
    assert {(job.worker, job.lease_until) for job in rows} == {(None, None)}
    free = [job.pk for job in lifecycle.claim("default", uuid4(), 32, [QUICK])]
    assert free == [job.pk for job in jobs if job.pk != jobs[place].pk]
    assert (rows[place].error or {})["code"] == "worker_lost"
    assert types_of(rows[place]) == ["job.accepted", "job.started", "job.retrying"]
    assert rows[place].attempt == 1


@pytest.mark.django_db
def test_what_had_ended_before_the_child_was_killed_stays_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_module, "UNWRITTEN_SECONDS", 0.0)
    jobs = submit(6)
    play_until_killed(seated_hand(6), dies_in(jobs[4]))
    assert succeed() == 2
    assert [job.status for job in read(jobs)] == [*[Status.COMPLETED] * 4, *[Status.PENDING] * 2]
    assert [job.crashes for job in read(jobs)] == [0, 0, 0, 0, 1, 0]


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_all_jobs_of_a_killed_child_complete_without_a_gap() -> None:
    jobs = submit(20)
    play_until_killed(seated_hand(8), dies_in(jobs[5]))
    succeed()
    drain()
    for job in read(jobs):
        assert (job.status, job.crashes) == (Status.COMPLETED, int(job.pk == jobs[5].pk))
        assert types_of(job)[-1] == "job.completed"
        assert types_of(job).count("job.completed") == 1
        assert job.attempt == 1 + job.crashes


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_job_with_one_attempt_whose_handler_has_run_is_not_run_again() -> None:
    """The child is killed after the handler and before its word of it: whether it ran can't be known."""
    (once,) = submit(1, max_attempts=1)
    runs: list[int] = []
    kind(QUICK)(lambda context, _params: runs.append(context.attempt))
    hand = seated_hand(8)
    job = hand.next(may_claim=True)
    assert job is not None
    hand.play(job)
    succeed()
    (row,) = read([once])
    assert (row.status, runs) == (Status.FAILED, [1])
    assert (row.error or {})["code"] == "worker_lost"


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_job_with_one_attempt_that_ran_when_its_child_was_killed_fails() -> None:
    jobs = submit(1, max_attempts=1)
    play_until_killed(seated_hand(8), dies_in(jobs[0]))
    assert succeed() == 1
    (row,) = read(jobs)
    assert (row.status, row.crashes) == (Status.FAILED, 1)


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_job_of_a_killed_child_that_was_cancelled_or_taken_is_left_as_it_is() -> None:
    jobs = submit(5)
    hand = seated_hand(5)
    first = hand.next(may_claim=True)
    assert first
    lifecycle.cancel(jobs[1].pk)
    Job.objects.filter(pk=jobs[2].pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    (taken,) = lifecycle.claim("default", uuid4())
    assert taken.pk == jobs[2].pk
    kind(QUICK)(dies_in(jobs[0]))
    with pytest.raises(KeyboardInterrupt):
        hand.play(first)
    assert succeed() == 3
    assert [job.status for job in read(jobs)] == [
        Status.PENDING,
        Status.CANCELLED,
        Status.RUNNING,
        Status.PENDING,
        Status.PENDING,
    ]
    assert lifecycle.finish([Outcome(job=taken)]) == {taken.pk}


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_running_job_that_was_to_be_cancelled_is_cancelled_when_its_child_is_killed() -> None:
    jobs = submit(2)

    def handler(context: Context, _params: dict[str, Any]) -> None:
        lifecycle.cancel(context.job_id)
        raise KeyboardInterrupt

    play_until_killed(seated_hand(1), handler)
    assert succeed() == 1
    assert [job.status for job in read(jobs)] == [Status.CANCELLED, Status.PENDING]


@pytest.mark.django_db(transaction=True)
def test_a_killed_child_whose_guard_had_looked_leaves_no_more_than_the_job_that_ran() -> None:
    jobs = submit(4)
    hand = seated_hand(4)
    watchman = Guard(Process())

    def handler(context: Context, _params: dict[str, Any]) -> None:
        if context.job_id == jobs[1].pk:
            assert hand.run
            hand.run.began_at -= 1
            watchman.look()
            raise KeyboardInterrupt

    with watchman.watching(hand):
        play_until_killed(hand, handler)
    assert [job.status for job in read(jobs)] == [Status.COMPLETED, Status.RUNNING, *[Status.PENDING] * 2]
    assert succeed() == 1
    assert [job.crashes for job in read(jobs)] == [0, 1, 0, 0]


@pytest.mark.django_db
def test_a_job_that_kills_its_worker_three_times_fails_and_takes_nobody_with_it() -> None:
    poison, *others = submit(6)
    for _ in range(lifecycle.MOST_CRASHES):
        play_until_killed(seated_hand(6), dies_in(poison))
        succeed()
        Job.objects.filter(ready_at__isnull=True).update(run_at=timezone.now() - timedelta(seconds=1))
        lifecycle.promote(10)
        Job.objects.filter(pk=poison.pk).update(turn=-1)  # it comes first again
    (row,) = read([poison])
    assert (row.status, row.crashes) == (Status.FAILED, 3)
    drain()
    assert {(job.status, job.crashes) for job in read(others)} == {(Status.COMPLETED, 0)}


@pytest.mark.django_db
def test_rescuing_a_worker_twice_finds_nothing_the_second_time() -> None:
    jobs, worker = submit(3), uuid4()
    hand = lifecycle.claim("default", worker, 3, [QUICK])
    ids = [job.pk for job in hand]
    assert lifecycle.rescue_worker(worker, ids[0], ["default"]) == 3
    assert lifecycle.rescue_worker(worker, ids[0], ["default"]) == 0
    assert [job.crashes for job in read(jobs)] == [1, 0, 0]


@pytest.mark.django_db
def test_what_a_worker_had_claimed_and_not_begun_is_found_behind_urgent_newcomers() -> None:
    jobs, worker = submit(3), uuid4()
    assert len(lifecycle.claim("default", worker, 3, [QUICK])) == 3  # killed before it knew of them
    submit(20, priority=100)
    assert lifecycle.rescue_worker(worker, None, ["elsewhere", "default"]) == 3
    assert {(job.status, job.worker, job.crashes) for job in read(jobs)} == {(Status.PENDING, None, 0)}


@pytest.mark.django_db
def test_rescuing_a_worker_touches_no_other_workers_jobs() -> None:
    jobs, lost, alive = submit(6), uuid4(), uuid4()
    lifecycle.claim("default", lost, 3, [QUICK])
    kept = lifecycle.claim("default", alive, 3, [QUICK])
    assert lifecycle.rescue_worker(lost, None, ["default"]) == 3
    assert {job.worker for job in read(jobs[3:])} == {alive}
    assert lifecycle.finish([Outcome(job=kept[0])]) == {kept[0].pk}


# --- The worker process ----------------------------------------------------------------------------------------------


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Process:
    """Have the runner be in a process of the test's own, without a guard."""
    own = Process()
    monkeypatch.setattr(runner, "this_process", lambda: own)
    monkeypatch.setattr(runner, "guard", lambda: None)
    return own


@pytest.mark.django_db
@pytest.mark.usefixtures("_ends_may_wait")
def test_a_child_that_begins_takes_back_what_the_one_before_it_held(new_process: Process) -> None:
    jobs = submit(8)
    play_until_killed(seated_hand(8), dies_in(jobs[2]))
    runner.begin(queues=["default"], slots=1, can_exit=True, seat=PLACE)
    assert [job.crashes for job in read(jobs)] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert not Job.objects.filter(worker__isnull=False).exists()
    left = Seat(PLACE).take(uuid4())
    assert left == Left(worker=new_process.id, running=None)


@pytest.mark.django_db
def test_a_child_that_ends_in_good_order_is_off_the_list_and_leaves_its_seat(new_process: Process) -> None:
    runner.begin(queues=["default"], slots=1, can_exit=True, seat=PLACE)
    new_process.tell_seen()
    assert Worker.objects.get().queues == ["default"]
    runner.end()
    assert not Worker.objects.exists()
    assert Seat(PLACE).take(uuid4()) is None


@pytest.mark.django_db
def test_a_worker_that_has_to_stop_gives_its_hand_back() -> None:
    jobs = submit(6)
    hand = seated_hand(6)
    job = hand.next(may_claim=True)
    assert job
    hand.play(job)
    process.tell_to_stop()
    try:
        assert hand.next(may_claim=not process.is_stopping()) is None
    finally:
        process._stop_sign.value = 0
    assert [job.status for job in read(jobs)] == [Status.COMPLETED, *[Status.PENDING] * 5]
    assert not Job.objects.filter(worker__isnull=False).exists()
