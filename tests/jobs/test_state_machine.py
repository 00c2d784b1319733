"""The life of jobs in any order of claims, crashes, cancels, retries, rescues and removals, on the real database."""

from __future__ import annotations

from collections import defaultdict
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

from jobs import lifecycle, retention
from jobs.failures import AlreadySubmitted, KeyReused, UniqueKeyTaken, WrongState
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Idempotency, Outcome, Submission
from jobs.models import FINAL, Event, EventType, Job, Status
from jobs.representation import job_as_dict
from tests.factories import new_user

EVENT_OF_STATUS = {
    Status.COMPLETED: EventType.COMPLETED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
}
FINAL_EVENTS = set(EVENT_OF_STATUS.values())
WORKERS = [uuid4() for _ in range(3)]
ERROR = {"code": "broken", "message": "It broke."}
MOST_ROUNDS = 60


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
    claims: Bundle[Job] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self._savepoint = transaction.savepoint()
        self._owners = [new_user().pk for _ in range(2)]
        self._last_seen: dict[UUID, tuple[int, dict[str, Any]]] = {}
        self._removed: set[UUID] = set()

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            transaction.savepoint_rollback(self._savepoint)

    # --- Users

    @initialize(target=jobs)
    def first_job(self) -> UUID:
        return self.submit(owner=0, key=None, max_attempts=3)

    @rule(
        target=jobs,
        owner=st.integers(0, 1),
        later=st.sampled_from([None, -5, 3600]),
        priority=st.integers(-100, 100),
        max_attempts=st.integers(1, 5),
        limits=st.sampled_from([{}, {"start_within_seconds": 60}, {"deadline_seconds": 60}]),
    )
    def accept(self, owner: int, later: int | None, priority: int, max_attempts: int, limits: dict[str, int]) -> UUID:
        run_at = None if later is None else timezone.now() + timedelta(seconds=later)
        pk = self.submit(owner, None, max_attempts, run_at=run_at, priority=priority, **limits)
        assert (Job.objects.get(pk=pk).ready_at is None) == (later == 3600)
        return pk

    @rule(target=jobs, owner=st.integers(0, 1), key=st.sampled_from(["one", "two"]), max_attempts=st.integers(1, 3))
    def accept_with_a_unique_key(self, owner: int, key: str, max_attempts: int) -> Any:
        standing = Job.objects.filter(owner=self._owners[owner], unique_key=key).exclude(status__in=FINAL).first()
        if standing is None:
            return self.submit(owner, key, max_attempts)
        with pytest.raises(UniqueKeyTaken) as taken:
            self.submit(owner, key, max_attempts)
        assert taken.value.standing.pk == standing.pk
        return multiple()

    @rule(target=jobs, owner=st.integers(0, 1), key=st.sampled_from("ab"), fingerprint=st.sampled_from("cd"))
    def accept_with_an_idempotency_key(self, owner: int, key: str, fingerprint: str) -> Any:
        before = Job.objects.count()
        submission = Submission(kind=get_kind("demo.countdown"), owner_id=self._owners[owner])
        try:
            (job,) = lifecycle.accept([submission], Idempotency(key=key, fingerprint=fingerprint * 64))
        except (AlreadySubmitted, KeyReused):
            assert Job.objects.count() == before
            return multiple()
        return job.pk

    def submit(self, owner: int, key: str | None, max_attempts: int, **values: Any) -> UUID:
        submission = Submission(
            kind=get_kind("demo.countdown"),
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

    @rule(target=claims, worker=st.sampled_from(WORKERS), count=st.integers(1, 3))
    def claim(self, worker: UUID, count: int) -> Any:
        due = Job.objects.filter(status=Status.PENDING, ready_at__isnull=False)
        most_urgent = list(due.order_by("-priority", "ready_at", "id").values_list("pk", flat=True)[:count])
        claimed = lifecycle.claim("default", count, worker)
        assert {job.pk for job in claimed} == set(most_urgent)
        assert all((job.status, job.worker) == (Status.RUNNING, worker) for job in claimed)
        return multiple(*claimed)

    @rule(claim=claims, percent=st.floats(0, 100) | st.none(), lines=st.integers(0, 2), ahead=st.integers(0, 5))
    def beat(self, claim: Job, percent: float | None, lines: int, ahead: int) -> None:
        before, now = self.row_under(claim), timezone.now()
        sign_of_life = Beat(
            job_id=claim.pk,
            fence=claim.fence,
            progress=None if percent is None else {"percent": percent, "message": None, "current": None, "total": None},
            version=claim.version + ahead,
            lines=[{"level": "info", "message": f"line {each}"} for each in range(lines)],
            moments=[now] * lines,
        )
        held = lifecycle.beat([sign_of_life])
        assert (claim.pk in held) == before.is_own
        self.check_fenced(claim, before)
        if before.is_own and not lines and percent is None:
            assert held[claim.pk].version == before.row["version"]

    @rule(claim=claims, retry=st.booleans(), how=st.sampled_from(["completed", "failed", "cancelled", "given up"]))
    def conclude(self, claim: Job, retry: bool, how: str) -> None:
        before = self.row_under(claim)
        match how:
            case "completed":
                moved = lifecycle.conclude([Outcome(job=claim, result={"fence": claim.fence})])
            case "failed":
                moved = lifecycle.conclude([Outcome(job=claim, error=ERROR, retry=retry)])
            case "cancelled":
                moved = lifecycle.finish([Outcome(job=claim, is_cancelled=True)])
            case _:
                moved = lifecycle.finish([Outcome(job=claim, error=ERROR)])
        assert moved == ({claim.pk} if before.is_own else set())
        self.check_fenced(claim, before)

    @rule(first=consumes(claims), second=consumes(claims))
    def conclude_two_at_once(self, first: Job, second: Job) -> None:
        if first.pk == second.pk:
            return
        own = {each.pk for each in (first, second) if self.row_under(each).is_own}
        moved = lifecycle.conclude([Outcome(job=first, result=1), Outcome(job=second, error=ERROR)])
        assert moved == own

    @rule(pk=jobs)
    def lose_worker(self, pk: UUID) -> None:
        past = timezone.now() - timedelta(seconds=1)
        Job.objects.filter(pk=pk, status=Status.RUNNING).update(lease_until=past)

    # --- The sweeper, and time

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
        assert not overdue.exists()

    @rule(pk=jobs, column=st.sampled_from(["start_by", "finish_by"]))
    def expire(self, pk: UUID, column: str) -> None:
        past = timezone.now() - timedelta(seconds=1)
        Job.objects.filter(pk=pk, **{f"{column}__isnull": False}).update(**{column: past})
        lifecycle.expire(100)
        job = Job.objects.filter(pk=pk, status=Status.PENDING).first()
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

    def check_version(self, job: Job) -> None:
        visible = shown(job)
        version, before = self._last_seen.get(job.pk, (0, None))
        assert job.version > version or (job.version == version and visible == before)
        self._last_seen[job.pk] = (job.version, visible)

    # --- Fences

    def row_under(self, claim: Job) -> Before:
        row = everything_of(claim.pk)
        is_own = row is not None and row["status"] == Status.RUNNING and row["fence"] == claim.fence
        return Before(row or {}, is_own=is_own)

    def check_fenced(self, claim: Job, before: Before) -> None:
        """A worker whose claim is over has changed nothing at all."""
        if not before.is_own:
            assert (everything_of(claim.pk) or {}) == before.row

    # --- The end: healthy workers and a sweeper bring every job to its end

    def drain(self) -> None:
        for _ in range(MOST_ROUNDS):
            past = timezone.now() - timedelta(seconds=1)
            unfinished = Job.objects.exclude(status__in=FINAL)
            if not unfinished.exists():
                break
            unfinished.filter(status=Status.RUNNING).update(lease_until=past)
            unfinished.filter(status=Status.PENDING, ready_at__isnull=True).update(run_at=past)
            lifecycle.rescue(100)
            unfinished.filter(status=Status.PENDING, ready_at__isnull=True).update(run_at=past)
            lifecycle.promote(100)
            lifecycle.conclude([Outcome(job=job, result="drained") for job in lifecycle.claim("default", 100, uuid4())])
        assert not Job.objects.exclude(status__in=FINAL).exists()
        self.every_log_is_whole()


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
    last_reopening = max((place for place, event in enumerate(events) if "by" in event.data), default=0)
    assert job.attempt == types[last_reopening:].count(EventType.STARTED)
    if job.is_final:
        assert events[-1].type == EVENT_OF_STATUS[Status(job.status)]
        assert events[-1].data["status"] == job.status
    else:
        assert events[-1].type not in FINAL_EVENTS
    if job.status == Status.RUNNING:
        assert types[-1] in (EventType.STARTED, EventType.LOG)


def check_row(job: Job) -> None:
    """The row says one thing only."""
    is_running = job.status == Status.RUNNING
    assert (job.lease_until is not None) == is_running
    assert (job.worker is not None) == is_running
    assert job.ready_at is None or job.status == Status.PENDING
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
        assert job.ready_at is not None or job.run_at is not None
        assert job.cancel_requested_at is None


@pytest.mark.django_db
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
