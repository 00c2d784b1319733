"""What is written and reserved while a handler runs, so that the next one needn't wait for the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection

from jobs import hand as hand_module
from jobs import kinds, lifecycle, runner
from jobs.context import Context
from jobs.guard import Guard
from jobs.hand import Hand
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Submission
from jobs.models import Event, Job, Status
from jobs.pace import BRISK_SECONDS, Pace
from jobs.process import Process
from tests.factories import new_user
from tests.waiting import wait_until

BRISK, SHORT, LONG, NOOP = "test.brisk", "test.short", "test.long", "test.noop"
SECONDS = {BRISK: 0.1, SHORT: 0.01, LONG: 2 * BRISK_SECONDS, NOOP: 1e-5}
PATIENCE = 10.0

pytestmark = pytest.mark.django_db(transaction=True)


class KnownPace(Pace):
    """Knows how long kinds take, whatever this machine is at."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = dict(SECONDS)

    def note(self, kind: str, seconds: float) -> None:
        """Learn nothing."""


class Gate:
    """Holds handlers up until they may go on, each by itself."""

    def __init__(self) -> None:
        self.entered: list[UUID] = []
        self._open: dict[UUID, threading.Event] = {}

    def __call__(self, context: Context, _params: dict[str, Any]) -> None:
        self.entered.append(context.job_id)
        assert self.of(context.job_id).wait(PATIENCE)

    def of(self, job_id: UUID) -> threading.Event:
        return self._open.setdefault(job_id, threading.Event())

    def let(self, *jobs: Job) -> None:
        for job in jobs:
            self.of(job.pk).set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    for name in SECONDS:
        kind(name)(gate)
    yield gate
    for name in SECONDS:
        del kinds._registry[name]


@contextmanager
def at_work(monkeypatch: pytest.MonkeyPatch, gate: Gate, jobs: list[Job]) -> Iterator[None]:
    """Have a worker of one thread at work, with guard and scribe; at the end all handlers may end."""
    process = Process()
    watchman = Guard(process)
    monkeypatch.setattr(runner, "guard", lambda: watchman)
    monkeypatch.setattr(runner, "this_process", lambda: process)
    monkeypatch.setattr(runner, "_pace", KnownPace())
    watchman.start()

    def work() -> None:
        try:
            runner.work("default")
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        gate.let(*jobs)
        thread.join()
        watchman.close()


def submit(*names: str, **values: Any) -> list[Job]:
    owner = new_user()
    return lifecycle.accept([Submission(kind=get_kind(name), owner_id=owner.pk, **values) for name in names])


def read(job: Job) -> Job:
    return Job.objects.get(pk=job.pk)


def types_of(job: Job) -> list[str]:
    return list(Event.objects.filter(job=job.pk).order_by("id").values_list("type", flat=True))


def is_reserved(job: Job) -> bool:
    row = read(job)
    return row.status == Status.PENDING and row.worker is not None


def is_at(gate: Gate, job: Job) -> Callable[[], bool]:
    return lambda: gate.entered[-1:] == [job.pk]


def wholes(jobs: list[Job]) -> None:
    """See that each job ran once, from its begin to its end."""
    assert [read(job).status for job in jobs] == [Status.COMPLETED] * len(jobs)
    assert {tuple(types_of(job)) for job in jobs} == {("job.accepted", "job.started", "job.completed")}
    assert {read(job).attempt for job in jobs} == {1}


@pytest.mark.parametrize("name", [SHORT, BRISK])
def test_the_next_job_is_reserved_while_a_handler_runs(monkeypatch: pytest.MonkeyPatch, gate: Gate, name: str) -> None:
    monkeypatch.setattr(hand_module, "PATIENCE_SECONDS", 60.0)  # however slow this machine is
    jobs = submit(*[name] * 3)
    with at_work(monkeypatch, gate, jobs):
        wait_until(is_at(gate, jobs[0]), PATIENCE)
        wait_until(lambda: is_reserved(jobs[1]), PATIENCE)
        assert types_of(jobs[1]) == ["job.accepted"]
        assert not is_reserved(jobs[2]) or name == SHORT  # of short ones a handful
    wholes(jobs)


@pytest.mark.parametrize("name", [SHORT, BRISK])
def test_an_end_is_told_while_the_next_handler_runs(monkeypatch: pytest.MonkeyPatch, gate: Gate, name: str) -> None:
    monkeypatch.setattr(hand_module, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(Guard, "_clear_the_way", lambda *_: None)  # it isn't the guard that writes it
    jobs = submit(*[name] * 4)
    with at_work(monkeypatch, gate, jobs):
        wait_until(lambda: is_reserved(jobs[1]), PATIENCE)
        gate.let(jobs[0])
        wait_until(is_at(gate, jobs[1]), PATIENCE)
        if name == SHORT:
            gate.let(jobs[1], jobs[2])  # the others of its hand
        wait_until(lambda: read(jobs[0]).status == Status.COMPLETED, PATIENCE)
    wholes(jobs)


def test_the_begin_of_a_job_that_was_reserved_ahead_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(Guard, "_clear_the_way", lambda *_: None)
    jobs = submit(*[BRISK] * 3)
    with at_work(monkeypatch, gate, jobs):
        wait_until(lambda: is_reserved(jobs[1]), PATIENCE)
        gate.let(jobs[0])
        wait_until(lambda: read(jobs[1]).status == Status.RUNNING, PATIENCE)
        begun = read(jobs[1])
        assert begun.started_at
        assert types_of(jobs[1]) == ["job.accepted", "job.started"]
        assert begun.alone
    wholes(jobs)


@pytest.mark.parametrize("name", [LONG, NOOP])
def test_nothing_is_reserved_behind_what_is_long_or_over_at_once(
    monkeypatch: pytest.MonkeyPatch, gate: Gate, name: str
) -> None:
    calls: list[Hand] = []
    monkeypatch.setattr(Hand, "reserve_ahead", lambda hand, run: calls.append(hand))
    jobs = submit(*[name] * 2)
    with at_work(monkeypatch, gate, jobs):
        wait_until(is_at(gate, jobs[0]), PATIENCE)
        time.sleep(SECONDS[BRISK])  # nothing can be waited for that must not come
        assert not is_reserved(jobs[1])
    assert calls == []
    wholes(jobs)


def test_a_job_with_one_attempt_is_never_reserved_ahead(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    (first,) = submit(BRISK)
    (once,) = submit(BRISK, max_attempts=1)
    tried = threading.Event()
    real = Hand.reserve_ahead

    def noting(hand: Hand, run: Any) -> None:
        real(hand, run)
        tried.set()

    monkeypatch.setattr(Hand, "reserve_ahead", noting)
    with at_work(monkeypatch, gate, [first, once]):
        assert tried.wait(PATIENCE)
        assert read(once).worker is None
    wholes([first, once])


def test_what_waits_behind_a_run_that_takes_longer_than_usual_is_given_back(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    jobs = submit(*[BRISK] * 2)
    with at_work(monkeypatch, gate, jobs):
        wait_until(lambda: read(jobs[1]).fence == 1, PATIENCE)
        wait_until(lambda: read(jobs[1]).worker is None, PATIENCE)
        assert [job.pk for job in lifecycle.claim("default", uuid4())] == [jobs[1].pk]
    assert read(jobs[0]).status == Status.COMPLETED


def test_a_database_that_is_away_meanwhile_loses_nothing(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    """The worker's thread writes and claims as it would without a scribe."""
    real, failed = lifecycle.trade, list[bool]()

    def breaking(outcomes: Any, want: Any) -> Any:
        if threading.current_thread().name == "scribe":
            failed.append(bool(outcomes))
            raise OperationalError("away")
        return real(outcomes, want)

    jobs = submit(*[SHORT] * 4)
    with at_work(monkeypatch, gate, jobs):
        wait_until(lambda: is_reserved(jobs[2]), PATIENCE)  # the first runs, and two wait behind it
        monkeypatch.setattr(lifecycle, "trade", breaking)
        gate.let(*jobs[:2])
        wait_until(lambda: failed == [True], PATIENCE)  # with the last of them at work
        gate.let(jobs[2])
        wait_until(lambda: read(jobs[2]).status == Status.COMPLETED, PATIENCE)
    wholes(jobs)


def test_who_has_to_stop_reserves_nothing_more(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setattr(runner, "is_stopping", lambda: len(gate.entered) > 0)
    monkeypatch.setattr(hand_module, "is_stopping", lambda: len(gate.entered) > 0)
    jobs = submit(*[BRISK] * 2)
    with at_work(monkeypatch, gate, jobs):
        wait_until(is_at(gate, jobs[0]), PATIENCE)
        gate.let(jobs[0])
        wait_until(lambda: read(jobs[0]).status == Status.COMPLETED, PATIENCE)
    assert (read(jobs[1]).status, read(jobs[1]).fence) == (Status.PENDING, 0)


def test_threads_have_no_scribe(monkeypatch: pytest.MonkeyPatch, gate: Gate, scribes: list[Any]) -> None:
    """Another job runs there while one is written down."""
    process = Process(slots=4)
    monkeypatch.setattr(runner, "this_process", lambda: process)
    monkeypatch.setattr(runner, "guard", lambda: Guard(process))
    jobs = submit(BRISK)
    gate.let(*jobs)
    assert runner.work("default") == 1
    assert scribes == []
    wholes(jobs)
