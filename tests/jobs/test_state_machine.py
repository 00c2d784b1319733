"""The life of jobs in any order of hands, flushes, crashes, cancels, retries, rescues and removals, on the database."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from copy import copy
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs import kinds, lifecycle, limits, queues, retention
from jobs.failures import AlreadySubmitted, KeyReused, UniqueKeyTaken, WrongState
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Idempotency, Outcome, Submission
from jobs.models import FINAL, Event, EventType, Gate, Job, Status
from jobs.representation import job_as_dict
from tests.factories import new_user, played

EVENT_OF_STATUS = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
}
FINAL_EVENTS = set(EVENT_OF_STATUS.values())
WORKERS = [uuid4() for _ in range(3)]
ERROR = {"code": "broken", "message": "It broke."}
MOST_ROUNDS = 100
QUICK, LONG, LIMITED = "test.quick", "test.long", "test.limited"
MOST_RUNNING, MOST_RUNNING_PER_USER = 2, 1


@pytest.fixture
def _own_kinds() -> Iterator[None]:
    for name in (QUICK, LONG):
        kinds.kind(name)(lambda _context, _params: None)
    limited = kinds.kind(LIMITED, max_running=MOST_RUNNING, max_running_per_user=MOST_RUNNING_PER_USER)
    limited(lambda _context, _params: None)
    yield
    for name in (QUICK, LONG, LIMITED):
        del kinds._registry[name]


class InHand:
    """A job in a worker's hand, as that worker knows it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.is_reserved = job.status == Status.PENDING

    @property
    def pk(self) -> UUID:
        return self.job.pk

    def outcome(self, **values: Any) -> Outcome:
        """Have its handler run to its end."""
        return played(copy(self.job), **values)

    def begin(self) -> bool:
        """Have its handler run on, so that its begin is told."""
        begun = copy(self.job)
        lifecycle.foresee_begin(begun)
        is_own = lifecycle.begin(begun, time.monotonic())
        if is_own:
            self.job, self.is_reserved = begun, False
        return is_own


def everything_of(pk: UUID) -> dict[str, Any] | None:
    """Read a job's whole row and how long its log is."""
    row = Job.objects.filter(pk=pk).values().first()
    return row and row | {"events": Event.objects.filter(job=pk).count()}


def shown(job: Job) -> dict[str, Any]:
    """Show what a version stands for: the Job without the version, the estimates, and the time that the test moves."""
    left_out = ("version", "estimatedFinishAt", "runAt")
    return {name: value for name, value in job_as_dict(job).items() if name not in left_out}


class LifeOfJobs(RuleBasedStateMachine):
    """Some users, three workers of which any may be lost and come back, and a sweeper."""

    jobs: Bundle[UUID] = Bundle("jobs")
    claims: Bundle[InHand] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self._savepoint = transaction.savepoint()
        self._owners = [new_user().pk for _ in range(2)]
        self._last_seen: dict[UUID, tuple[int, dict[str, Any]]] = {}
        self._removed: set[UUID] = set()
        self._is_paused = False

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            transaction.savepoint_rollback(self._savepoint)

    # --- Users

    @initialize(target=jobs)
    def first_job(self) -> UUID:
        return self.submit(owner=0, key=None, max_attempts=3, kind=QUICK)

    @rule(
        target=jobs,
        owner=st.integers(0, 1),
        later=st.sampled_from([None, -5, 3600]),
        priority=st.integers(-100, 100),
        max_attempts=st.integers(1, 5),
        bounds=st.sampled_from([{}, {"start_within_seconds": 60}, {"deadline_seconds": 60}]),
        kind=st.sampled_from([QUICK, QUICK, QUICK, LONG, LIMITED]),
    )
    def accept(
        self, owner: int, later: int | None, priority: int, max_attempts: int, bounds: dict[str, int], kind: str
    ) -> UUID:
        run_at = None if later is None else timezone.now() + timedelta(seconds=later)
        pk = self.submit(owner, None, max_attempts, kind=kind, run_at=run_at, priority=priority, **bounds)
        if kind != LIMITED:
            assert (Job.objects.get(pk=pk).ready_at is None) == (later == 3600)
        return pk

    @rule(
        target=jobs, owners=st.lists(st.integers(0, 1), min_size=1, max_size=6), kind=st.sampled_from([QUICK, LIMITED])
    )
    def accept_many(self, owners: list[int], kind: str) -> Any:
        submissions = [Submission(kind=get_kind(kind), owner_id=self._owners[owner]) for owner in owners]
        return multiple(*(job.pk for job in lifecycle.accept(submissions)))

    @rule(target=jobs, owner=st.integers(0, 1), key=st.sampled_from(["one", "two"]), max_attempts=st.integers(1, 3))
    def accept_with_a_unique_key(self, owner: int, key: str, max_attempts: int) -> Any:
        standing = Job.objects.filter(owner=self._owners[owner], unique_key=key).exclude(status__in=FINAL).first()
        if standing is None:
            return self.submit(owner, key, max_attempts, kind=QUICK)
        with pytest.raises(UniqueKeyTaken) as taken:
            self.submit(owner, key, max_attempts, kind=QUICK)
        assert taken.value.standing.pk == standing.pk
        return multiple()

    @rule(target=jobs, owner=st.integers(0, 1), key=st.sampled_from("ab"), fingerprint=st.sampled_from("cd"))
    def accept_with_an_idempotency_key(self, owner: int, key: str, fingerprint: str) -> Any:
        before = Job.objects.count()
        owner_id = self._owners[owner]
        submission = Submission(kind=get_kind(QUICK), owner_id=owner_id)
        idempotency = Idempotency(key=key, owner_id=owner_id, fingerprint=fingerprint * 64)
        try:
            (job,) = lifecycle.accept([submission], idempotency)
        except (AlreadySubmitted, KeyReused):
            assert Job.objects.count() == before
            return multiple()
        return job.pk

    def submit(self, owner: int, key: str | None, max_attempts: int, *, kind: str, **values: Any) -> UUID:
        submission = Submission(
            kind=get_kind(kind),
            owner_id=self._owners[owner],
            unique_key=key,
            max_attempts=max_attempts,
            **values,
        )
        return lifecycle.accept([submission])[0].pk

    @rule(pk=jobs)
    def cancel(self, pk: UUID) -> None:
        before = everything_of(pk)
        try:
            job = lifecycle.cancel(pk)
        except Job.DoesNotExist:
            assert pk in self._removed
        except WrongState:
            assert before is not None
            assert before["status"] in (Status.COMPLETED, Status.FAILED)
            assert everything_of(pk) == before
        else:
            assert job.status == Status.CANCELLED or (
                job.status == Status.RUNNING and job.cancel_requested_at is not None
            )

    @rule(pk=jobs)
    def reopen(self, pk: UUID) -> None:
        before = everything_of(pk)
        try:
            job = lifecycle.reopen(pk, by="somebody")
        except Job.DoesNotExist:
            assert pk in self._removed
        except (WrongState, UniqueKeyTaken):
            assert everything_of(pk) == before
        else:
            assert before is not None
            assert before["status"] in (Status.FAILED, Status.CANCELLED)
            assert (job.status, job.attempt, job.failures, job.crashes, job.error, job.finished_at, job.expires_at) == (
                Status.PENDING,
                0,
                0,
                0,
                None,
                None,
                None,
            )

    @rule(pk=jobs)
    def remove(self, pk: UUID) -> None:
        before = everything_of(pk)
        if retention.remove([pk]):
            assert before is not None
            assert before["status"] in FINAL
            assert not Event.objects.filter(job=pk).exists()
            self._removed.add(pk)
            self._last_seen.pop(pk, None)
        else:
            assert everything_of(pk) == before

    # --- Workers, of which each may have been fenced off meanwhile

    @rule(target=claims, worker=st.sampled_from(WORKERS), count=st.integers(1, 5), is_quick=st.booleans())
    def claim(self, worker: UUID, count: int, is_quick: bool) -> Any:
        expected = [] if self._is_paused else next_hand(count, [QUICK, LIMITED] if is_quick else [])
        hand = lifecycle.claim("default", worker, count, [QUICK, LIMITED] if is_quick else [])
        assert [job.pk for job in hand] == expected
        assert all(job.worker == worker for job in hand)
        assert [job.status for job in hand] == [Status.RUNNING, *[Status.PENDING] * (len(hand) - 1)][: len(hand)]
        return multiple(*(InHand(job) for job in hand))

    @rule(target=claims, worker=st.sampled_from(WORKERS), count=st.integers(1, 3))
    def reserve_ahead(self, worker: UUID, count: int) -> Any:
        expected = [] if self._is_paused else next_hand(count, [QUICK], begins=False)
        traded = lifecycle.trade([], lifecycle.wanted("default", worker, count, [QUICK], begins=False))
        assert [job.pk for job in traded.claimed] == expected
        assert {(job.worker, job.status, job.alone) for job in traded.claimed} <= {(worker, Status.PENDING, False)}
        return multiple(*(InHand(job) for job in traded.claimed))

    @rule(claim=claims)
    def begin(self, claim: InHand) -> None:
        before = self.row_under(claim)
        if claim.is_reserved:
            assert claim.begin() == before.is_own
        self.check_fenced(claim, before)

    @rule(some=st.lists(claims, max_size=4))
    def give_back(self, some: list[InHand]) -> None:
        reserved = {claim.pk: claim for claim in some if claim.is_reserved}
        befores = {pk: self.row_under(claim) for pk, claim in reserved.items()}
        own = sum(1 for each in befores.values() if each.is_own)
        assert lifecycle.give_back([claim.job for claim in reserved.values()]) == own
        for pk, claim in reserved.items():
            self.check_fenced(claim, befores[pk])

    @rule(claim=claims, percent=st.floats(0, 100) | st.none(), lines=st.integers(0, 2), ahead=st.integers(0, 5))
    def beat(self, claim: InHand, percent: float | None, lines: int, ahead: int) -> None:
        if claim.is_reserved:
            return
        before, now = self.row_under(claim), timezone.now()
        sign_of_life = Beat(
            job=claim.job,
            progress=None if percent is None else {"percent": percent, "message": None, "current": None, "total": None},
            version=claim.job.version + ahead,
            lines=[{"level": "info", "message": f"line {each}"} for each in range(lines)],
            moments=[now] * lines,
        )
        held = lifecycle.beat([sign_of_life])
        assert (claim.pk in held) == before.is_own
        self.check_fenced(claim, before)
        if before.is_own and not lines and percent is None:
            assert held[claim.pk].version == before.row["version"]

    @rule(claim=claims, retry=st.booleans(), how=st.sampled_from(["completed", "failed", "cancelled", "later"]))
    def finish(self, claim: InHand, retry: bool, how: str) -> None:
        before = self.row_under(claim)
        match how:
            case "completed":
                outcome = claim.outcome(result={"fence": claim.job.fence})
            case "failed":
                outcome = claim.outcome(error=ERROR, retry=retry)
            case "cancelled":
                outcome = claim.outcome(is_cancelled=True)
            case _:
                outcome = claim.outcome(error=ERROR, retry_after=1000)
        assert lifecycle.finish([outcome]) == ({claim.pk} if before.is_own else set())
        self.check_fenced(claim, before)

    @rule(target=claims, some=st.lists(consumes(claims), max_size=5), worker=st.sampled_from(WORKERS))
    def trade(self, some: list[InHand], worker: UUID) -> Any:
        outcomes = {claim.pk: claim.outcome(result=1) for claim in some}
        own = {claim.pk for claim in {each.pk: each for each in some}.values() if self.row_under(claim).is_own}
        traded = lifecycle.trade(list(outcomes.values()), lifecycle.wanted("default", worker, 4, [QUICK]))
        assert traded.ended == own
        assert not {job.pk for job in traded.claimed} & own
        return multiple(*(InHand(job) for job in traded.claimed))

    @rule(claim=claims)
    def release(self, claim: InHand) -> None:
        before = self.row_under(claim)
        is_running = before.is_own and before.row["status"] == Status.RUNNING
        assert lifecycle.release(claim.job) == is_running
        self.check_fenced(claim, before)

    @rule(pk=jobs)
    def lose_worker(self, pk: UUID) -> None:
        past = timezone.now() - timedelta(seconds=1)
        Job.objects.filter(pk=pk, worker__isnull=False).update(lease_until=past)

    @rule(worker=st.sampled_from(WORKERS), data=st.data())
    def find_dead(self, worker: UUID, data: st.DataObject) -> None:
        held = list(Job.objects.filter(worker=worker).order_by("pk"))
        running = data.draw(st.sampled_from([None, *(job.pk for job in held)]))
        assert lifecycle.rescue_worker(worker, running, ["default"]) == len(held)
        assert not Job.objects.filter(worker=worker).exists()
        for before in held:
            after = Job.objects.get(pk=before.pk)
            may_have_run = before.status == Status.RUNNING and before.max_attempts == 1
            assert after.crashes == before.crashes + (before.pk == running or may_have_run)

    # --- Operators, the sweeper, and time

    @rule()
    def pause_or_resume(self) -> None:
        assert queues.resume("default") if self._is_paused else queues.pause("default", by="somebody")
        self._is_paused = not self._is_paused

    @rule()
    def look_at_gates(self) -> None:
        limits.look_at_gates()

    @rule(limit=st.integers(1, 3))
    def rescue(self, limit: int) -> None:
        lost = Job.objects.filter(status=Status.RUNNING, lease_until__lt=timezone.now()).count()
        assert lifecycle.rescue(limit) == min(lost, limit)

    @rule(pk=jobs)
    def let_its_next_try_come(self, pk: UUID) -> None:
        past = timezone.now() - timedelta(seconds=1)
        Job.objects.filter(pk=pk, status=Status.PENDING, ready_at__isnull=True).update(run_at=past)

    @rule()
    def promote(self) -> None:
        lifecycle.promote(100)
        overdue = Job.objects.filter(status=Status.PENDING, ready_at__isnull=True, run_at__lte=timezone.now())
        assert not overdue.filter(gate=Gate.NONE).exists()

    @rule(pk=jobs, column=st.sampled_from(["start_by", "finish_by"]))
    def expire(self, pk: UUID, column: str) -> None:
        past = timezone.now() - timedelta(seconds=1)
        Job.objects.filter(pk=pk, **{f"{column}__isnull": False}).update(**{column: past})
        lifecycle.expire(100)
        job = Job.objects.filter(lifecycle.is_free(timezone.now()), pk=pk, status=Status.PENDING).first()
        if job:
            assert job.finish_by is None or job.finish_by > timezone.now()
            assert job.start_by is None or job.start_by > timezone.now() or job.attempt > 0

    # --- What holds after every step

    @invariant()
    def every_log_is_whole(self) -> None:
        logs: dict[UUID, list[Event]] = defaultdict(list)
        for event in Event.objects.filter(job__isnull=False).order_by("id"):
            assert event.job_id is not None
            logs[event.job_id].append(event)
        jobs = {job.pk: job for job in Job.objects.all()}
        assert set(logs) == set(jobs)
        for pk, job in jobs.items():
            check_log(job, logs[pk])
            check_row(job)
            self.check_version(job)

    @invariant()
    def limits_hold_and_nobody_waits_for_nothing(self) -> None:
        limited = list(Job.objects.filter(kind=LIMITED).exclude(status__in=FINAL))
        may_run = [job for job in limited if job.worker or job.ready_at]
        assert len(may_run) <= MOST_RUNNING
        assert all(count <= MOST_RUNNING_PER_USER for count in Counter(job.owner_id for job in may_run).values())
        waiting = {job.owner_id for job in limited if job.gate in (Gate.USER, Gate.KIND)}
        if len(may_run) < MOST_RUNNING:
            assert waiting <= {job.owner_id for job in may_run}

    def check_version(self, job: Job) -> None:
        visible = shown(job)
        version, before = self._last_seen.get(job.pk, (0, None))
        assert job.version > version or (job.version == version and visible == before)
        self._last_seen[job.pk] = (job.version, visible)

    # --- Fences

    def row_under(self, claim: InHand) -> Before:
        row = everything_of(claim.pk)
        is_own = row is not None and row["worker"] is not None and row["fence"] == claim.job.fence
        return Before(row or {}, is_own=is_own)

    def check_fenced(self, claim: InHand, before: Before) -> None:
        """A worker whose claim is over has changed nothing at all."""
        if not before.is_own:
            assert (everything_of(claim.pk) or {}) == before.row

    # --- The end: healthy workers and a sweeper bring every job to its end

    def drain(self) -> None:
        queues.resume("default")
        for _ in range(MOST_ROUNDS):
            past = timezone.now() - timedelta(seconds=1)
            unfinished = Job.objects.exclude(status__in=FINAL)
            if not unfinished.exists():
                break
            unfinished.filter(worker__isnull=False).update(lease_until=past)
            lifecycle.rescue(100)
            unfinished.filter(status=Status.PENDING, ready_at__isnull=True).update(run_at=past)
            lifecycle.promote(100)
            hand = lifecycle.claim("default", uuid4(), 32, [QUICK, LIMITED])
            lifecycle.finish([played(job, result="drained") for job in hand])
        assert not Job.objects.exclude(status__in=FINAL).exists()
        self.every_log_is_whole()


def next_hand(count: int, quick_kinds: list[str], *, begins: bool = True) -> list[UUID]:
    """Say by the rules which jobs a claim must give."""
    in_line = Job.objects.filter(lifecycle.is_free(timezone.now()), status=Status.PENDING, ready_at__isnull=False)
    due = list(in_line.order_by("-priority", "turn", "id")[:count])
    hand: list[UUID] = []
    for job in due:
        is_alone = (
            job.kind not in quick_kinds or job.alone or job.crashes or job.max_attempts == 1 or job.worker is not None
        )
        if is_alone and (hand or not begins):
            break
        hand.append(job.pk)
        if is_alone:
            break
    return hand


class Before:
    """A job's row before a worker writes, and whether the job is that worker's."""

    def __init__(self, row: dict[str, Any], *, is_own: bool) -> None:
        self.row = row
        self.is_own = is_own


def check_log(job: Job, events: list[Event]) -> None:
    """The log has no gap, tells of one end, and each attempt was begun before it ended."""
    assert [event.sequence for event in events] == list(range(1, job.sequence + 1))
    assert events[0].type == EventType.ACCEPTED
    types = [event.type for event in events]
    for event, following in zip(events, [*events[1:], None], strict=True):
        if event.type in FINAL_EVENTS and following is not None:
            assert following.type == EventType.RETRYING
            assert following.data["by"] == "somebody"
        if event.type == EventType.RETRYING and following is not None:
            assert following.type in {EventType.STARTED, *FINAL_EVENTS}
        if event.type == EventType.STARTED and following is not None:
            assert following.type in {EventType.LOG, EventType.RETRYING, *FINAL_EVENTS}
    versions = [event.data["version"] for event in events]
    assert versions == sorted(versions)
    assert versions[-1] <= job.version
    check_attempts(events)
    assert job.attempt == events[-1].data["attempt"]
    if job.is_final:
        assert events[-1].type == EVENT_OF_STATUS[Status(job.status)]
        assert events[-1].data["status"] == job.status
    else:
        assert events[-1].type not in FINAL_EVENTS
    if job.status == Status.RUNNING:
        assert types[-1] in (EventType.STARTED, EventType.LOG)


def check_attempts(events: list[Event]) -> None:
    """An attempt counts from its begin on, unless it was put back; a reopening begins anew."""
    attempt = 0
    for event in events:
        if event.type == EventType.STARTED:
            attempt += 1
        elif "by" in event.data:
            attempt = 0
        elif event.type == EventType.RETRYING and event.data["attempt"] == attempt - 1:
            attempt -= 1  # put back
        assert event.data["attempt"] == attempt


def check_row(job: Job) -> None:
    """The row says one thing only."""
    is_running = job.status == Status.RUNNING
    is_reserved = job.status == Status.PENDING and job.worker is not None
    assert (job.lease_until is not None) == (job.worker is not None) == (is_running or is_reserved)
    assert job.ready_at is None or job.status == Status.PENDING
    assert job.ready_at is not None or not is_reserved
    assert job.gate == Gate.NONE or (job.kind == LIMITED and not job.is_final)
    assert (job.finished_at is not None) == (job.expires_at is not None) == job.is_final
    assert job.attempt <= job.max_attempts
    assert job.attempt <= job.failures + job.crashes + 1
    assert job.result is None or job.status == Status.COMPLETED
    assert job.error is None or job.status != Status.COMPLETED
    if not job.is_final:
        assert job.crashes < lifecycle.MOST_CRASHES
        assert job.failures + job.crashes < job.max_attempts
        assert job.attempt == job.failures + job.crashes + is_running
    if job.status == Status.PENDING:
        assert job.ready_at is not None or job.run_at is not None or job.gate in (Gate.USER, Gate.KIND)
        assert job.cancel_requested_at is None


@pytest.mark.django_db
@pytest.mark.usefixtures("_own_kinds")
def test_jobs_live_by_the_rules_whatever_happens_in_whatever_order() -> None:
    run_state_machine_as_test(
        LifeOfJobs,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],  # shrinking takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
