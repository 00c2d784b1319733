"""Jobs that are promised together: all or none, and one word once all are final."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from jobs import kinds, lifecycle
from jobs.failures import UniqueKeyRepeated, UniqueKeyTaken
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Outcome, Submission
from jobs.models import Batch, Event, EventType, Job, Status
from jobs.representation import as_time
from jobs.sweeper import batches
from tests.factories import new_user, played

if TYPE_CHECKING:
    from django.contrib.auth.models import User

QUICK, ELSEWHERE = "test.quick", "test.elsewhere"


@pytest.fixture(autouse=True)
def _own_kind() -> Iterator[None]:
    kind(QUICK)(lambda _context, _params: None)
    yield
    for name in (QUICK, ELSEWHERE):
        kinds._registry.pop(name, None)


def one_of(owner: User, **values: Any) -> Submission:
    return Submission(kind=get_kind(QUICK), owner_id=owner.pk, **values)


def new_batch(count: int, owner: User | None = None, **values: Any) -> tuple[Batch, list[Job]]:
    owner = owner or new_user()
    return lifecycle.accept_batch([one_of(owner, **values)] * count, owner.pk)


def claim_all() -> list[Job]:
    claimed: list[Job] = []
    while found := lifecycle.claim("default", uuid4()):
        claimed += found
    return claimed


def told(batch: Batch) -> list[Event]:
    return list(Event.objects.filter(batch=batch.pk).order_by("id"))


def side_by_side(*works: Callable[[], object]) -> None:
    """Run works in threads with connections of their own, and raise what one of them raised."""
    faults: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[each]) for each in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if faults:
        raise faults[0]


# --- Accept ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_batch_is_accepted_with_all_its_jobs() -> None:
    owner = new_user()
    batch, jobs = new_batch(1000, owner)
    assert (batch.total, batch.owner, batch.finished_at, batch.sequence) == (1000, owner, None, 0)
    assert batch.jobs.count() == 1000
    assert Event.objects.filter(type=EventType.ACCEPTED, sequence=1).count() == 1000
    assert [job.pk for job in jobs] == sorted(job.pk for job in jobs)
    assert told(batch) == []


@pytest.mark.django_db
def test_each_job_of_a_batch_is_what_its_submission_said() -> None:
    """Of values that Python holds for equal, each job keeps its own."""
    owner, other = new_user(), new_user()
    given: list[dict[str, Any]] = [
        {"params": {"value": 1}, "tags": ["1"], "metadata": {"a": 0}},
        {"params": {"value": True}, "tags": ["1"], "metadata": {"a": False}},
        {"params": {"value": 1.0}, "tags": ["1"], "metadata": {"a": 0.0}},
        {"params": {"value": None}, "tags": [], "metadata": {}},
        {"params": {"value": "1"}, "tags": ["ä", "€"], "metadata": {"a": {"b": [None]}}},
        {"params": {}, "priority": 7, "max_attempts": 1, "timeout_seconds": 5, "unique_key": "u"},
    ]
    submissions = [one_of(owner if place % 2 else other, **values) for place, values in enumerate(given)]
    _, jobs = lifecycle.accept_batch(submissions, owner.pk)
    for job, submission, values in zip(jobs, submissions, given, strict=True):
        stored = Job.objects.get(pk=job.pk)
        assert stored.owner_id == submission.owner_id
        assert {name: repr(getattr(stored, name)) for name in values} == {
            name: repr(value) for name, value in values.items()
        }


@pytest.mark.django_db
def test_submissions_that_are_alike_for_a_while_are_stored_as_those_that_come_alone() -> None:
    """What some have in common is worked out once; one that differs in a single thing must not get the others'."""
    kind(ELSEWHERE, queue="elsewhere", timeout=7)(lambda _context, _params: None)
    owner, other = new_user(), new_user()
    later = timezone.now() + timedelta(hours=1)
    different: list[dict[str, Any]] = [
        {"owner_id": other.pk},
        {"kind": get_kind(ELSEWHERE)},
        {"run_at": later},
        {"priority": -3},
        {"max_attempts": 9},
        {"timeout_seconds": 8},
        {"start_within_seconds": 6},
        {"deadline_seconds": 5},
        {"unique_key": "u"},
        {"callback_url": "https://a.example/", "callback_events": ("job.completed",)},
        {"tags": ("t",), "metadata": {"m": 1}},
    ]
    plain = one_of(owner, params={"p": 1})
    given = [plain, plain]
    for values in different:
        given += [replace(plain, **values), plain, plain]
    together = lifecycle.accept(given)
    for job, submission in zip(together, given, strict=True):
        stored = Job.objects.get(pk=job.pk)
        assert seen(stored) == seen(job) | {"turn": stored.turn}
        if not submission.unique_key:  # which only one job may have
            (alone,) = lifecycle.accept([submission])
            assert said(stored) == said(Job.objects.get(pk=alone.pk))
        event = Event.objects.get(job=job)
        assert (event.type, event.sequence, event.data["runAt"]) == ("job.accepted", 1, as_time(submission.run_at))
        assert (event.owner_id, event.kind, event.at) == (submission.owner_id, submission.kind.name, stored.created_at)


def seen(job: Job) -> dict[str, Any]:
    """Give all of a row."""
    return {field.attname: getattr(job, field.attname) for field in Job._meta.concrete_fields}


def said(job: Job) -> dict[str, Any]:
    """Give what of a row doesn't tell which job it is, and when it came."""
    own = ("id", "turn", "created_at", "ready_at", "start_by", "finish_by")
    delays = {name: moment - job.created_at for name in own[3:] if (moment := getattr(job, name))}
    return {name: value for name, value in seen(job).items() if name not in own} | delays


@pytest.mark.django_db
@pytest.mark.parametrize("is_on", [True, False])
def test_the_collection_of_garbage_is_after_a_submission_as_it_was_before(is_on: bool) -> None:
    was_on = gc.isenabled()
    (gc.enable if is_on else gc.disable)()
    try:
        new_batch(2)
        with pytest.raises(IntegrityError):
            lifecycle.accept([replace(one_of(new_user()), owner_id=None)])  # type: ignore[arg-type]  # whoever that is
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()


@pytest.mark.django_db
@pytest.mark.parametrize("values", [(1, True), (0, False), (0, 0.0), (2, 2.0)], ids=str)
def test_two_jobs_whose_params_are_nearly_equal_keep_their_own(values: tuple[Any, Any]) -> None:
    owner = new_user()
    _, jobs = lifecycle.accept_batch([one_of(owner, params={"value": value}) for value in values], owner.pk)
    stored = [Job.objects.get(pk=job.pk).params["value"] for job in jobs]
    assert [(type(value), value) for value in stored] == [(type(value), value) for value in values]


@pytest.mark.django_db
def test_times_of_accepted_jobs_are_whole() -> None:
    owner, at = new_user(), timezone.now() + timedelta(hours=1, microseconds=1)
    _, (now, later) = lifecycle.accept_batch(
        [one_of(owner, start_within_seconds=5), one_of(owner, run_at=at, deadline_seconds=9)], owner.pk
    )
    for job in (now, later):
        stored = Job.objects.get(pk=job.pk)
        for name in ("created_at", "ready_at", "run_at", "start_by", "finish_by"):
            assert getattr(stored, name) == getattr(job, name)
    assert later.run_at == at


@pytest.mark.django_db(transaction=True)
def test_a_batch_is_accepted_as_a_whole_or_not_at_all() -> None:
    owner = new_user()
    (standing,) = lifecycle.accept([one_of(owner, unique_key="taken")])
    submissions = [one_of(owner), one_of(owner, unique_key="free"), one_of(owner, unique_key="taken")]
    with pytest.raises(UniqueKeyTaken) as taken:
        lifecycle.accept_batch(submissions, owner.pk)
    assert taken.value.standing.pk == standing.pk
    assert (Batch.objects.count(), Job.objects.count(), Event.objects.count()) == (0, 1, 1)
    lifecycle.cancel(standing.pk)
    _, jobs = lifecycle.accept_batch(submissions, owner.pk)
    assert len(jobs) == 3


@pytest.mark.django_db
def test_a_batch_with_the_same_unique_key_twice_is_refused() -> None:
    owner = new_user()
    with pytest.raises(UniqueKeyRepeated, match="twin"):
        lifecycle.accept_batch([one_of(owner, unique_key="twin"), one_of(owner, unique_key="twin")], owner.pk)
    assert (Batch.objects.count(), Job.objects.count()) == (0, 0)
    other = new_user()
    lifecycle.accept_batch([one_of(owner, unique_key="twin"), one_of(other, unique_key="twin")], owner.pk)


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_batches_that_want_each_others_unique_keys_end_with_one_that_has_them() -> None:
    """Two submissions hold what the other waits for; one of them is told so in its own words."""
    owner = new_user()
    held, may_go = threading.Barrier(3), threading.Event()
    answers: list[str] = []

    def hold() -> None:
        with transaction.atomic():
            lifecycle.accept([one_of(owner, unique_key="x"), one_of(owner, unique_key="y")])
            held.wait(timeout=10)
            assert may_go.wait(timeout=10)
            transaction.set_rollback(True)

    def submit(*keys: str) -> None:
        held.wait(timeout=10)
        try:
            lifecycle.accept_batch([one_of(owner, unique_key=key) for key in keys], owner.pk)
        except UniqueKeyTaken:
            answers.append("taken")
        else:
            answers.append("accepted")

    def release() -> None:
        with connection.cursor() as cursor:
            for _ in range(500):
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                if cursor.fetchone()[0] >= 2:
                    break
        may_go.set()

    side_by_side(hold, lambda: submit("a", "x", "b"), lambda: submit("b", "y", "a"), release)
    assert sorted(answers) == ["accepted", "taken"]
    assert Job.objects.count() == 3


# --- Completion ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_batch_is_told_of_once_all_its_jobs_are_final() -> None:
    owner = new_user()
    batch, jobs = new_batch(3, owner)
    other, _ = new_batch(1, owner)
    first, second, third, last = claim_all()
    lifecycle.finish([Outcome(job=first)])
    lifecycle.finish([Outcome(job=second, error={"code": "e", "message": "m"}, retry=False)])
    assert told(batch) == []
    lifecycle.finish([Outcome(job=third), Outcome(job=last)])
    for each in (batch, other):
        each.refresh_from_db()
        (event,) = told(each)
        assert (event.type, event.sequence, event.job_id, event.owner_id) == (
            EventType.BATCH_COMPLETED,
            1,
            None,
            each.owner_id,
        )
        assert each.finished_at == event.at
        assert each.sequence == 1
    ends = Event.objects.filter(job__in=[job.pk for job in jobs], sequence=3)
    assert told(batch)[0].id > max(event.id for event in ends)


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_was_played_by_the_handful_is_told_of_once() -> None:
    batch, _ = new_batch(70)
    while hand := lifecycle.claim("default", uuid4(), 32, [QUICK]):
        assert told(batch) == []
        lifecycle.finish([played(job) for job in hand])
    assert len(told(batch)) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["cancel", "expire", "rescue", "rescue_worker", "cancelled while it runs"])
def test_however_the_last_job_ends_its_batch_is_told_of(how: str) -> None:
    batch, jobs = new_batch(2, start_within_seconds=600, max_attempts=1)
    lifecycle.finish([Outcome(job=lifecycle.claim("default", uuid4())[0])])
    last, worker, past = jobs[1], uuid4(), timezone.now() - timedelta(seconds=1)
    match how:
        case "cancel":
            lifecycle.cancel(last.pk)
        case "expire":
            Job.objects.filter(pk=last.pk).update(start_by=past)
            assert lifecycle.expire(10) == 1
        case "rescue":
            lifecycle.claim("default", worker)
            Job.objects.filter(pk=last.pk).update(lease_until=past)
            assert lifecycle.rescue(10) == 1
        case "rescue_worker":
            lifecycle.claim("default", worker)
            assert lifecycle.rescue_worker(worker, last.pk, ["default"]) == 1
        case _:
            (running,) = lifecycle.claim("default", worker)
            lifecycle.cancel(last.pk)
            lifecycle.finish([Outcome(job=running, is_cancelled=True)])
    assert Job.objects.get(pk=last.pk).is_final
    assert len(told(batch)) == 1


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_tried_again_keeps_its_batch_open() -> None:
    batch, (job,) = new_batch(1)
    (claimed,) = claim_all()
    lifecycle.finish([Outcome(job=claimed, error={"code": "e", "message": "m"})])
    assert told(batch) == []
    lifecycle.cancel(job.pk)
    assert len(told(batch)) == 1


@pytest.mark.django_db(transaction=True)
def test_a_finished_batch_stays_finished_when_a_job_is_reopened() -> None:
    batch, (job,) = new_batch(1)
    lifecycle.cancel(job.pk)
    lifecycle.reopen(job.pk, by="somebody")
    lifecycle.finish([Outcome(job=each) for each in claim_all()])
    assert Job.objects.get(pk=job.pk).status == Status.COMPLETED
    assert len(told(batch)) == 1


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count", [2, 5])
def test_a_batch_whose_last_jobs_end_at_the_same_time_is_told_of_once(count: int) -> None:
    """None of the transactions sees the others' ends, since none has committed yet."""
    for _ in range(5):
        batch, _ = new_batch(count)
        claimed, have_ended = claim_all(), threading.Barrier(count)

        def end(job: Job, have_ended: threading.Barrier = have_ended) -> None:
            with transaction.atomic():
                assert lifecycle.finish([Outcome(job=job)]) == {job.pk}
                have_ended.wait(timeout=10)

        side_by_side(*(lambda job=job: end(job) for job in claimed))
        assert len(told(batch)) == 1
        batch.refresh_from_db()
        assert batch.finished_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_many_workers_end_is_told_of_once() -> None:
    made = [new_batch(10)[0] for _ in range(4)]

    def work() -> None:
        while hand := lifecycle.claim("default", uuid4(), 3, [QUICK]):
            lifecycle.finish([played(job) for job in hand])

    side_by_side(*[work] * 4)
    work()  # who found all taken has left
    assert [len(told(batch)) for batch in made] == [1, 1, 1, 1]


@pytest.mark.django_db(transaction=True)
def test_the_sweeper_and_a_worker_that_meet_at_a_batch_tell_of_it_once() -> None:
    made = [new_batch(1) for _ in range(10)]
    claimed = claim_all()

    def end() -> None:
        for job in claimed:
            lifecycle.finish([Outcome(job=job)])

    def sweep() -> None:
        while Batch.objects.filter(finished_at__isnull=True).exists():
            batches.sweep()

    side_by_side(end, sweep, sweep)
    assert [len(told(batch)) for batch, _ in made] == [1] * 10


# --- The sweeper -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_sweeper_tells_of_a_batch_whose_last_worker_died_before_its_word() -> None:
    """In this test's transaction nothing is committed, so that whatever follows a commit never comes."""
    owner = new_user()
    batch, _ = new_batch(2, owner)
    still_open, _ = new_batch(1, owner)
    jobs = claim_all()
    lifecycle.finish([Outcome(job=job) for job in jobs[:2]])
    assert told(batch) == []
    assert batches.sweep() == 1
    assert batches.sweep() == 0
    assert len(told(batch)) == 1
    assert told(still_open) == []


@pytest.mark.django_db
def test_the_sweeper_comes_to_a_complete_batch_however_many_older_ones_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    for _ in range(5):
        new_batch(1, run_at=timezone.now() + timedelta(days=7))
    batch, _ = new_batch(1)
    lifecycle.finish([Outcome(job=job) for job in claim_all()])
    for _ in range(3):
        batches.sweep()
    assert len(told(batch)) == 1


@pytest.mark.django_db
def test_close_batches_leaves_those_alone_that_are_not_asked_for() -> None:
    batch, _ = new_batch(1)
    other, _ = new_batch(1)
    lifecycle.finish([Outcome(job=job) for job in claim_all()])
    assert told(batch) == told(other) == []
    assert lifecycle.close_batches([batch.pk]) == 1
    assert (len(told(batch)), len(told(other))) == (1, 0)
    assert lifecycle.close_batches([batch.pk, other.pk]) == 1
    assert (len(told(batch)), len(told(other))) == (1, 1)
