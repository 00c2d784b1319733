"""Kinds that let only so many of their jobs run at once: never more, and nobody waits while there is room."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from jobs import kinds, lifecycle, limits, queues
from jobs.context import Context
from jobs.failures import RetryAfter
from jobs.hand import Hand
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Outcome, Submission
from jobs.models import FINAL, Gate, Job, Status
from jobs.pace import Pace
from jobs.process import Process
from jobs.sql import statements
from jobs.sweeper.gates import sweep as gates_sweep
from tests.factories import new_job, new_user, played

if TYPE_CHECKING:
    from django.contrib.auth.models import User

LIMITED, OTHER = "test.limited", "test.other"
FAILURE = {"code": "e", "message": "m"}
DRAIN_SECONDS = 20.0

Handler = Callable[[Context, dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _no_kinds_left() -> Iterator[None]:
    yield
    for name in (LIMITED, OTHER):
        kinds._registry.pop(name, None)


def declare(name: str = LIMITED, handler: Handler | None = None, **options: int) -> None:
    """Declare a kind, with its limits."""
    limits_of_it: dict[str, Any] = {**options}
    kind(name, **limits_of_it)(handler or (lambda _context, _params: None))


def submit(owner: User, count: int = 1, name: str = LIMITED, **values: Any) -> list[Job]:
    one = Submission(kind=get_kind(name), owner_id=owner.pk, **values)
    return lifecycle.accept([one] * count)


def claim_all(name: str = LIMITED) -> list[Job]:
    """Claim one by one until nobody is due."""
    claimed: list[Job] = []
    while found := lifecycle.claim("default", uuid4(), 1, [name]):
        claimed += found
    return claimed


def gates(name: str = LIMITED) -> dict[Gate, int]:
    return Counter(Gate(each) for each in Job.objects.filter(kind=name).values_list("gate", flat=True))


def end(*jobs: Job) -> None:
    lifecycle.finish([Outcome(job=job) for job in jobs])


def let_next_tries_come() -> None:
    past = timezone.now() - timedelta(seconds=1)
    Job.objects.filter(status=Status.PENDING, run_at__isnull=False).update(run_at=past)
    lifecycle.promote(1000)


def lose(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


# --- At the claim ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_no_more_run_than_may_and_each_end_lets_the_next_in() -> None:
    declare(max_running=3)
    submit(new_user(), 8)
    running = claim_all()
    assert len(running) == 3
    for left in range(5, 0, -1):
        end(running.pop(0))
        (following,) = claim_all()
        running.append(following)
        assert gates()[Gate.KIND] == left - 1
    end(*running)
    assert claim_all() == []
    assert set(Job.objects.values_list("status", "gate")) == {(Status.COMPLETED, Gate.NONE)}


@pytest.mark.django_db
def test_no_more_of_each_user_run_than_may() -> None:
    declare(max_running_per_user=2)
    users = [new_user() for _ in range(3)]
    for each in users:
        submit(each, 5)
    running = claim_all()
    assert Counter(job.owner_id for job in running) == {each.pk: 2 for each in users}
    end(next(job for job in running if job.owner_id == users[1].pk))
    assert [job.owner_id for job in claim_all()] == [users[1].pk]


@pytest.mark.django_db
def test_both_limits_hold_together() -> None:
    declare(max_running=3, max_running_per_user=2)
    first, second, third = (new_user() for _ in range(3))
    submit(first, 10)
    submit(second, 1)
    submit(third, 1)
    running = claim_all()
    assert len(running) == 3
    assert Counter(job.owner_id for job in running)[first.pk] == 2
    while running:
        end(running.pop(0))
        running += claim_all()
        per_user = Counter(job.owner_id for job in running)
        assert len(running) <= 3
        assert all(count <= 2 for count in per_user.values())
        assert len(running) == 3 or not Job.objects.exclude(owner__in=[first.pk]).exclude(status__in=FINAL).exists()
    assert not Job.objects.exclude(status=Status.COMPLETED).exists()


@pytest.mark.django_db
def test_a_kind_without_a_limit_is_not_held_up_by_one_with_a_limit() -> None:
    declare(max_running=1)
    declare(OTHER)
    owner = new_user()
    submit(owner, 5)
    submit(owner, 5, OTHER)
    assert Counter(job.kind for job in claim_all(OTHER)) == {LIMITED: 1, OTHER: 5}


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["complete", "fail", "cancel", "expire", "crash", "one by one"])
def test_however_a_job_ends_it_makes_room(how: str) -> None:
    declare(max_running=1, max_running_per_user=1)
    owner, other = new_user(), new_user()
    (first,) = submit(owner, 1, max_attempts=1, start_within_seconds=600)
    submit(other, 1)
    match how:
        case "cancel":
            lifecycle.cancel(first.pk)
        case "expire":
            Job.objects.filter(pk=first.pk).update(start_by=timezone.now() - timedelta(seconds=1))
            assert lifecycle.expire(10) == 1
        case _:
            (claimed,) = claim_all()
            assert claimed.pk == first.pk
            match how:
                case "complete" | "one by one":
                    end(claimed)
                case "fail":
                    lifecycle.finish([Outcome(job=claimed, error=FAILURE)])
                case "crash":
                    lose(claimed)
                    assert lifecycle.rescue(10) == 1
    assert [job.owner_id for job in claim_all()] == [other.pk]


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_a_job_that_ends_at_the_gate_leaves_the_room_to_others(how: str) -> None:
    declare(max_running=1)
    owner = new_user()
    first, second, third = submit(owner, 3, start_within_seconds=600)
    (running,) = claim_all()
    if how == "cancel":
        lifecycle.cancel(second.pk)
    else:
        Job.objects.filter(pk=second.pk).update(start_by=timezone.now() - timedelta(seconds=1))
        assert lifecycle.expire(10) == 1
    assert claim_all() == []
    assert running.pk == first.pk
    end(running)
    assert [job.pk for job in claim_all()] == [third.pk]


@pytest.mark.django_db
def test_a_job_that_is_tried_again_waits_at_the_gate_again() -> None:
    declare(max_running=1)
    first, second, third = submit(new_user(), 3)
    (running,) = claim_all()
    lifecycle.finish([Outcome(job=running, error=FAILURE)])
    (running,) = claim_all()
    assert running.pk == second.pk
    let_next_tries_come()
    assert claim_all() == []
    assert Gate(Job.objects.get(pk=first.pk).gate) == Gate.KIND
    end(running)
    order = []
    while following := claim_all():
        assert len(following) == 1
        order.append(following[0].pk)
        end(*following)
    assert sorted(order) == sorted([first.pk, third.pk])


@pytest.mark.django_db
def test_a_crashed_job_waits_at_the_gate_again() -> None:
    declare(max_running_per_user=1)
    owner = new_user()
    first, second = submit(owner, 2)
    (running,) = claim_all()
    lose(running)
    assert lifecycle.rescue(10) == 1
    (running,) = claim_all()
    assert running.pk == second.pk
    let_next_tries_come()
    assert claim_all() == []
    end(running)
    assert [job.pk for job in claim_all()] == [first.pk]


@pytest.mark.django_db
def test_a_job_that_is_put_back_keeps_its_room_and_counts_once() -> None:
    declare(max_running=1)
    first, _ = submit(new_user(), 2)
    (running,) = claim_all()
    lifecycle.release(running)
    (again,) = claim_all()
    assert again.pk == first.pk
    assert gates() == {Gate.THROUGH: 1, Gate.KIND: 1}


@pytest.mark.django_db
def test_a_scheduled_job_waits_at_the_gate_once_it_is_due() -> None:
    declare(max_running=1)
    owner = new_user()
    (later,) = submit(owner, 1, run_at=timezone.now() + timedelta(hours=1))
    submit(owner)
    (running,) = claim_all()
    assert Gate(Job.objects.get(pk=later.pk).gate) == Gate.NONE
    let_next_tries_come()
    assert claim_all() == []
    end(running)
    assert [job.pk for job in claim_all()] == [later.pk]


@pytest.mark.django_db
def test_a_reopened_job_waits_at_the_gate() -> None:
    declare(max_running=1)
    first, second = submit(new_user(), 2)
    lifecycle.cancel(first.pk)
    (running,) = claim_all()
    assert running.pk == second.pk
    lifecycle.reopen(first.pk, by="somebody")
    assert claim_all() == []
    end(running)
    assert [job.pk for job in claim_all()] == [first.pk]


@pytest.mark.django_db
def test_a_hand_holds_no_more_of_a_kind_than_may_run() -> None:
    declare(max_running=3)
    submit(new_user(), 10)
    hand = lifecycle.claim("default", uuid4(), 32, [LIMITED])
    assert len(hand) == 3
    assert claim_all() == []
    lifecycle.finish([played(job) for job in hand])
    assert len(lifecycle.claim("default", uuid4(), 32, [LIMITED])) == 3


@pytest.mark.django_db
def test_a_limited_job_that_is_given_back_can_be_claimed_by_another() -> None:
    declare(max_running=2)
    submit(new_user(), 4)
    hand = lifecycle.claim("default", uuid4(), 32, [LIMITED])
    lifecycle.give_back(hand[1:])
    assert [job.pk for job in claim_all()] == [hand[1].pk]


@pytest.mark.django_db
def test_the_most_urgent_at_the_gate_goes_first() -> None:
    declare(max_running=1)
    owner = new_user()
    submit(owner)
    (low,), (high,) = submit(owner, priority=-5), submit(owner, priority=5)
    (running,) = claim_all()
    end(running)
    (running,) = claim_all()
    assert running.pk == high.pk
    end(running)
    assert [job.pk for job in claim_all()] == [low.pk]


@pytest.mark.django_db
def test_a_job_at_the_gate_is_pending_and_is_cancelled_at_once() -> None:
    declare(max_running=1)
    _, waiting = submit(new_user(), 2)
    waiting.refresh_from_db()
    assert (waiting.status, waiting.ready_at) == (Status.PENDING, None)
    assert lifecycle.cancel(waiting.pk).status == Status.CANCELLED


# --- When the code changes -------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_limit_that_is_removed_lets_those_through_who_wait() -> None:
    declare(max_running=1, max_running_per_user=1)
    users = [new_user(), new_user()]
    for each in users:
        submit(each, 5)
    assert len(claim_all()) == 1
    declare()
    assert gates_sweep() == 9
    assert len(claim_all()) == 9
    assert gates_sweep() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        ({"max_running": 1}, {"max_running": 4}, 4),
        ({"max_running_per_user": 1}, {"max_running_per_user": 3}, 3),
        ({"max_running_per_user": 1}, {"max_running": 4}, 4),
        ({"max_running": 1}, {"max_running_per_user": 3}, 3),
        ({"max_running": 1, "max_running_per_user": 1}, {"max_running_per_user": 3}, 3),
        ({"max_running": 3}, {"max_running": 2}, 2),
    ],
)
def test_a_limit_that_is_changed_holds_for_those_who_wait(
    before: dict[str, int], after: dict[str, int], most: int
) -> None:
    declare(LIMITED, None, **before)
    submit(new_user(), 10)
    running = claim_all()
    declare(LIMITED, None, **after)
    limits.look_at_gates()
    running += claim_all()
    assert len(running) == max(most, *before.values())
    end(*running)
    assert len(claim_all()) == most


@pytest.mark.django_db
def test_all_who_wait_come_through_a_removed_limit_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_STEPS", 4)
    declare(max_running=1, max_running_per_user=1)
    submit(new_user(), 15)
    declare()
    for _ in range(5):
        limits.look_at_gates()
    assert len(claim_all()) == 15


@pytest.mark.django_db(transaction=True)
def test_the_sweeper_lets_in_who_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(max_running=2)
    submit(new_user(), 4)
    running = claim_all()
    with monkeypatch.context() as patch:
        patch.setattr(limits, "let_in", lambda _moved: None)  # the process died before others could step forward
        end(*running)
    assert claim_all() == []
    assert gates_sweep() == 2
    assert len(claim_all()) == 2


# --- Side by side ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Watch:
    """Counts how many handlers run at once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    running: Counter[Any] = field(default_factory=Counter)
    most: Counter[Any] = field(default_factory=Counter)
    runs: int = 0

    def handler(self, seconds: float, fails: Callable[[Context], bool] = lambda _context: False) -> Handler:
        def handle(context: Context, _params: dict[str, Any]) -> None:
            keys = ["all", context._job.owner_id]
            with self.lock:
                self.runs += 1
                for key in keys:
                    self.running[key] += 1
                    self.most[key] = max(self.most[key], self.running[key])
            try:
                time.sleep(seconds)
                if fails(context):
                    raise RetryAfter(0)
            finally:
                with self.lock:
                    for key in keys:
                        self.running[key] -= 1

        return handle


def drain_side_by_side(count: int, *, sweeps: Callable[[], object] = lambda: None) -> None:
    """Have so many workers, each with a connection of its own, run all jobs to their ends; faults are raised."""
    faults: list[BaseException] = []
    give_up_at = time.monotonic() + DRAIN_SECONDS

    def work() -> None:
        hand = Hand("default", Process(slots=count), Pace(), threading.Event())
        try:
            while time.monotonic() < give_up_at:
                if job := hand.next(may_claim=True):
                    hand.play(job)
                elif not Job.objects.exclude(status__in=FINAL).exists():
                    return
                else:
                    sweeps()
                    time.sleep(0.002)
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if faults:
        raise faults[0]
    assert not Job.objects.exclude(status__in=FINAL).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("limit", "most", "most_of_each"),
    [
        ({"max_running": 2}, 2, 2),
        ({"max_running_per_user": 1}, 3, 1),
        ({"max_running": 3, "max_running_per_user": 2}, 3, 2),
    ],
    ids=["in all", "per user", "both"],
)
def test_workers_side_by_side_never_run_more_than_may_and_leave_nobody_waiting(
    limit: dict[str, int], most: int, most_of_each: int
) -> None:
    watch = Watch()
    declare(LIMITED, watch.handler(0.005), **limit)
    users = [new_user() for _ in range(3)]
    for each in users:
        submit(each, 12)
    drain_side_by_side(5)
    assert set(Job.objects.values_list("status", "gate", "attempt")) == {(Status.COMPLETED, Gate.NONE, 1)}
    assert watch.most["all"] <= most
    assert all(watch.most[each.pk] <= most_of_each for each in users)


@pytest.mark.django_db(transaction=True)
def test_limits_hold_while_jobs_are_tried_again_submitted_and_cancelled() -> None:
    watch = Watch()
    handler = watch.handler(0.003, lambda context: context.attempt < 3)
    declare(handler=handler, max_running=2, max_running_per_user=1, max_attempts=4)
    declare(OTHER, watch.handler(0.001))
    users = [new_user() for _ in range(3)]
    for each in users:
        submit(each, 6)
        submit(each, 2, OTHER)
    cancelled: list[Job] = []

    def sweeps() -> None:
        lifecycle.promote(50)

    def others() -> None:
        try:
            for each in users:
                first, *_ = submit(each, 2)
                lifecycle.cancel(first.pk)
                cancelled.append(first)
        finally:
            connection.close()

    watch.most.clear()
    user = threading.Thread(target=others)
    user.start()
    drain_side_by_side(4, sweeps=sweeps)
    user.join()
    drain_side_by_side(4, sweeps=sweeps)
    assert len(cancelled) == 3
    limited = Job.objects.filter(kind=LIMITED).exclude(pk__in=[job.pk for job in cancelled])
    assert set(limited.values_list("status", "attempt", "gate")) == {(Status.COMPLETED, 3, Gate.NONE)}


@pytest.mark.django_db(transaction=True)
def test_many_who_accept_at_once_let_in_no_more_than_may_run() -> None:
    declare(max_running=3, max_running_per_user=2)
    users = [new_user() for _ in range(4)]
    begin = threading.Barrier(len(users))
    faults: list[BaseException] = []

    def accept(owner: User) -> None:
        try:
            begin.wait(timeout=10)
            for _ in range(6):
                submit(owner, 2)
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=accept, args=[each]) for each in users]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert faults == []
    through = Counter(Job.objects.filter(gate=Gate.THROUGH).values_list("owner", flat=True))
    assert through.total() == 3
    assert max(through.values()) <= 2
    assert len(claim_all()) == 3


def at_once(monkeypatch: pytest.MonkeyPatch, *works: Callable[[], object]) -> list[BaseException]:
    """Have works run side by side such that each has locked its first kind before any locks its next."""
    vendor = type(statements())
    real, met = vendor.lock_kind, threading.local()
    have_locked = threading.Barrier(len(works))
    faults: list[BaseException] = []

    def lock_kind(self: Any, name: str) -> None:
        real(self, name)
        if not getattr(met, "others", False):
            met.others = True
            with suppress(threading.BrokenBarrierError):  # the other waits for this one, as it should
                have_locked.wait(timeout=1)

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    with monkeypatch.context() as patch:
        patch.setattr(vendor, "lock_kind", lock_kind)
        threads = [threading.Thread(target=run, args=[each]) for each in works]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    return faults


def four_of_two_kinds(**values: Any) -> tuple[list[Job], list[Job]]:
    """Accept two jobs of each of two limited kinds: the first of each is claimed, the second is in line."""
    declare(LIMITED, max_running=5)
    declare(OTHER, max_running=5)
    owner = new_user()
    for name in (LIMITED, OTHER):
        submit(owner, 1, name)
    running = claim_all(OTHER)
    assert len(running) == 2
    waiting = [job for name in (OTHER, LIMITED) for job in submit(owner, 1, name, **values)]
    return running, waiting


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["expire", "rescue", "rescue_worker"])
def test_a_sweep_over_several_kinds_does_not_lock_a_worker_out(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Both have to see to the gates of two kinds: in the same order, or each waits for the other."""
    running, waiting = four_of_two_kinds(start_within_seconds=600)
    past, worker = timezone.now() - timedelta(seconds=10), uuid4()
    sweep: Callable[[], object]
    match how:
        case "expire":
            for seconds, job in enumerate(waiting):
                Job.objects.filter(pk=job.pk).update(start_by=past + timedelta(seconds=seconds))
            sweep = lambda: lifecycle.expire(10)  # noqa: E731
        case "rescue":
            for seconds, job in enumerate(claimed_in_order(waiting)):
                Job.objects.filter(pk=job.pk).update(lease_until=past + timedelta(seconds=seconds))
            sweep = lambda: lifecycle.rescue(10)  # noqa: E731
        case _:
            claimed_in_order(waiting)
            Job.objects.filter(pk__in=[job.pk for job in waiting]).update(worker=worker)
            sweep = lambda: lifecycle.rescue_worker(worker, None, ["default"])  # noqa: E731
    faults = at_once(monkeypatch, lambda: end(*running), sweep)
    assert faults == []
    assert {job.status for job in Job.objects.filter(pk__in=[job.pk for job in running])} == {Status.COMPLETED}
    waited = {job.status for job in Job.objects.filter(pk__in=[job.pk for job in waiting])}
    assert waited == ({Status.FAILED} if how == "expire" else {Status.PENDING})


def claimed_in_order(jobs: Sequence[Job]) -> list[Job]:
    claimed = {job.pk: job for job in claim_all(OTHER)}
    assert set(claimed) == {job.pk for job in jobs}
    return [claimed[job.pk] for job in jobs]


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_submissions_of_several_kinds_do_not_lock_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(LIMITED, max_running=5)
    declare(OTHER, max_running=5)
    owner = new_user()

    def accept(*names: str) -> Callable[[], object]:
        submissions = [Submission(kind=get_kind(name), owner_id=owner.pk) for name in names]
        return lambda: lifecycle.accept(submissions)

    assert at_once(monkeypatch, accept(LIMITED, OTHER), accept(OTHER, LIMITED)) == []
    assert Job.objects.count() == 4


@pytest.mark.django_db
def test_a_paused_queue_keeps_its_limits() -> None:
    declare(max_running=1)
    submit(new_user(), 2)
    queues.pause("default", by="somebody")
    assert claim_all() == []
    queues.resume("default")
    assert len(claim_all()) == 1


@pytest.mark.django_db
def test_a_job_whose_kind_got_a_limit_after_it_was_accepted_still_runs() -> None:
    declare()
    job = new_job(kind=LIMITED, params={})
    declare(max_running=1)
    (claimed,) = claim_all()
    assert claimed.pk == job.pk
    end(claimed)
    assert Job.objects.get(pk=job.pk).status == Status.COMPLETED
