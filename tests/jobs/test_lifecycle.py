"""The rules of a job's life, on the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from jobs import lifecycle, log
from jobs.failures import AlreadySubmitted, KeyReused, UniqueKeyTaken, WrongState
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Idempotency, Outcome, Submission
from jobs.models import Event, Job, Status
from jobs.representation import event_as_dict
from tests.factories import WORKER, claimed_job, new_job, new_user, played

pytestmark = pytest.mark.django_db


def types_of(job: Job) -> list[str]:
    return [event.type for event in log.history(job.pk)]


def code_of(job: Job) -> str | None:
    return job.error["code"] if job.error else None


def lose_worker(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def make_due(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(10)


def test_an_accepted_job_is_due_and_has_its_first_event() -> None:
    job = new_job()
    assert (job.status, job.sequence, job.ready_at) == (Status.PENDING, 1, job.created_at)
    assert types_of(job) == ["job.accepted"]


def test_a_job_runs_from_claim_to_completion_without_a_gap() -> None:
    job = claimed_job()
    assert lifecycle.finish([Outcome(job=job, result={"answer": 42})]) == {job.pk}
    job.refresh_from_db()
    assert (job.status, job.result, job.attempt, job.lease_until) == (
        Status.COMPLETED,
        {"answer": 42},
        1,
        None,
    )
    assert [event.sequence for event in log.history(job.pk)] == [1, 2, 3]
    assert types_of(job) == ["job.accepted", "job.started", "job.completed"]


def test_claims_take_the_most_urgent_first_and_each_job_once() -> None:
    owner = new_user()
    low, high, middle = (new_job(owner, priority=priority) for priority in (-5, 100, 0))
    claimed = [lifecycle.claim("default", WORKER)[0].pk for _ in range(3)]
    assert claimed == [high.pk, middle.pk, low.pk]
    assert lifecycle.claim("default", WORKER) == []


def test_several_jobs_can_be_claimed_and_finished_at_once() -> None:
    owner = new_user()
    ids = {new_job(owner).pk for _ in range(5)}
    jobs = lifecycle.claim("default", WORKER, 10, ["demo.countdown"])
    assert {job.pk for job in jobs} == ids
    assert lifecycle.finish([played(job, result=str(job.pk)) for job in jobs]) == ids
    assert {job.result for job in Job.objects.all()} == {str(each) for each in ids}


def test_a_fenced_worker_writes_nothing() -> None:
    stale = claimed_job()
    lose_worker(stale)
    assert lifecycle.rescue(10) == 1
    make_due(stale)
    (fresh,) = lifecycle.claim("default", uuid4())
    assert lifecycle.finish([Outcome(job=stale, result="stale")]) == set()
    assert lifecycle.beat([Beat(job=stale, progress={"percent": 1.0})]) == {}
    assert lifecycle.finish([Outcome(job=fresh, result="fresh")]) == {fresh.pk}
    fresh.refresh_from_db()
    assert fresh.result == "fresh"
    assert types_of(fresh) == ["job.accepted", "job.started", "job.retrying", "job.started", "job.completed"]


def test_a_job_whose_worker_beats_is_not_rescued() -> None:
    job = claimed_job()
    assert job.pk in lifecycle.beat([Beat(job=job)])
    assert lifecycle.rescue(10) == 0


def test_a_job_that_loses_its_worker_three_times_fails() -> None:
    job = new_job(max_attempts=10)
    for _ in range(lifecycle.MOST_CRASHES):
        (claimed,) = lifecycle.claim("default", uuid4())
        lose_worker(claimed)
        lifecycle.rescue(10)
        make_due(job)
    job.refresh_from_db()
    assert (job.status, job.crashes, code_of(job)) == (Status.FAILED, 3, "worker_lost")


def test_a_job_with_one_attempt_never_runs_twice() -> None:
    job = claimed_job(max_attempts=1)
    lose_worker(job)
    lifecycle.rescue(10)
    job.refresh_from_db()
    assert (job.status, code_of(job)) == (Status.FAILED, "worker_lost")


def test_a_failed_attempt_is_followed_by_another_until_the_last() -> None:
    job = claimed_job(max_attempts=2)
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"})])
    job.refresh_from_db()
    assert job.status == Status.PENDING
    assert job.run_at is not None
    assert job.run_at > timezone.now()
    assert job.error == {"code": "e", "message": "m", "attempt": 1}
    make_due(job)
    (again,) = lifecycle.claim("default", WORKER)
    assert (again.attempt, again.error and again.error["attempt"]) == (2, 1)
    lifecycle.finish([Outcome(job=again, error={"code": "e", "message": "m"})])
    job.refresh_from_db()
    assert (job.status, job.failures) == (Status.FAILED, 2)
    assert types_of(job)[-3:] == ["job.retrying", "job.started", "job.failed"]


def test_a_failure_that_no_attempt_can_mend_ends_the_job() -> None:
    job = claimed_job(max_attempts=5)
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"}, retry=False)])
    job.refresh_from_db()
    assert job.status == Status.FAILED


def test_a_completed_job_keeps_no_error_of_earlier_attempts() -> None:
    job = claimed_job()
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"})])
    make_due(job)
    (again,) = lifecycle.claim("default", WORKER)
    lifecycle.finish([Outcome(job=again, result=None)])
    job.refresh_from_db()
    assert (job.status, job.error) == (Status.COMPLETED, None)


def test_a_pending_job_is_cancelled_at_once_and_never_runs() -> None:
    job = lifecycle.cancel(new_job().pk)
    assert job.status == Status.CANCELLED
    assert lifecycle.claim("default", WORKER) == []
    assert types_of(job) == ["job.accepted", "job.cancelled"]


def test_a_running_job_is_told_of_its_cancelling_by_its_beat() -> None:
    job = claimed_job()
    assert lifecycle.cancel(job.pk).status == Status.RUNNING
    held = lifecycle.beat([Beat(job=job)])
    assert held[job.pk].is_cancelled
    lifecycle.finish([Outcome(job=job, is_cancelled=True)])
    assert lifecycle.cancel(job.pk).status == Status.CANCELLED


def test_a_job_to_be_cancelled_that_fails_is_not_retried() -> None:
    job = claimed_job()
    lifecycle.cancel(job.pk)
    assert lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"})]) == {job.pk}
    job.refresh_from_db()
    assert (job.status, types_of(job)[-1]) == (Status.CANCELLED, "job.cancelled")
    assert job.finished_at is not None


def test_a_job_to_be_cancelled_that_loses_its_worker_is_cancelled() -> None:
    job = claimed_job()
    lifecycle.cancel(job.pk)
    lose_worker(job)
    lifecycle.rescue(10)
    job.refresh_from_db()
    assert job.status == Status.CANCELLED


def test_a_completed_job_cannot_be_cancelled() -> None:
    job = claimed_job()
    lifecycle.finish([Outcome(job=job)])
    with pytest.raises(WrongState):
        lifecycle.cancel(job.pk)


def test_a_failed_job_is_reopened_in_the_same_log_with_all_its_attempts() -> None:
    job = claimed_job(max_attempts=1)
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"})])
    again = lifecycle.reopen(job.pk, by="somebody")
    assert (again.status, again.attempt, again.failures, again.error, again.finished_at) == (
        Status.PENDING,
        0,
        0,
        None,
        None,
    )
    (claimed,) = lifecycle.claim("default", WORKER)
    assert (claimed.attempt, claimed.fence) == (1, 2)
    event = log.history(job.pk, after=3)[0]
    assert (event.type, event.data["by"]) == ("job.retrying", "somebody")


def test_a_completed_job_cannot_be_reopened() -> None:
    job = claimed_job()
    lifecycle.finish([Outcome(job=job)])
    with pytest.raises(WrongState):
        lifecycle.reopen(job.pk, by="somebody")


def test_a_scheduled_job_waits_for_its_time() -> None:
    job = new_job(run_at=timezone.now() + timedelta(hours=1))
    assert lifecycle.claim("default", WORKER) == []
    assert lifecycle.promote(10) == {}
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    assert lifecycle.promote(10) == {"default": 1}
    assert [each.pk for each in lifecycle.claim("default", WORKER)] == [job.pk]


def test_a_job_that_did_not_begin_in_time_expires() -> None:
    job = new_job(start_within_seconds=5)
    assert lifecycle.expire(10) == 0
    Job.objects.filter(pk=job.pk).update(start_by=timezone.now() - timedelta(seconds=1))
    assert lifecycle.expire(10) == 1
    job.refresh_from_db()
    assert (job.status, code_of(job)) == (Status.FAILED, "expired")


def test_progress_and_log_lines_come_with_a_beat() -> None:
    job = claimed_job()
    lines = [{"level": "info", "message": "one"}, {"level": "warning", "message": "two"}]
    held = lifecycle.beat(
        [
            Beat(
                job=job,
                progress={"percent": 50.0},
                version=9,
                lines=lines,
                moments=[timezone.now()] * 2,
            )
        ]
    )
    assert (held[job.pk].version, held[job.pk].sequence) == (10, 4)
    assert [event.data["log"] for event in log.history(job.pk, after=2)] == lines


def test_an_event_read_later_shows_the_job_as_it_stood() -> None:
    job = claimed_job()
    lifecycle.beat([Beat(job=job, progress={"percent": 50.0}, version=2)])
    lifecycle.finish([Outcome(job=job, result="done")])
    job.refresh_from_db()
    shown = [event_as_dict(event, job) for event in log.history(job.pk)]
    assert [each["data"]["status"] for each in shown] == ["PENDING", "RUNNING", "COMPLETED"]
    assert [each["data"]["result"] for each in shown] == [None, None, "done"]
    assert [each["data"]["sequence"] for each in shown] == [1, 2, 3]
    assert len({each["id"] for each in shown}) == 3


def test_the_same_key_and_submission_make_one_job() -> None:
    owner = new_user()
    key = Idempotency(key="k", owner_id=owner.pk, fingerprint="a" * 64)
    submission = Submission(kind=get_kind("demo.countdown"), owner_id=owner.pk)
    (job,) = lifecycle.accept([submission], key)
    with pytest.raises(AlreadySubmitted) as known:
        lifecycle.accept([submission], key)
    assert known.value.known.job == job
    with pytest.raises(KeyReused):
        lifecycle.accept([submission], replace(key, fingerprint="b" * 64))
    assert Job.objects.count() == 1
    assert Event.objects.count() == 1


def test_another_user_may_use_the_same_key() -> None:
    for owner in (new_user(), new_user()):
        key = Idempotency(key="k", owner_id=owner.pk, fingerprint="a" * 64)
        lifecycle.accept([Submission(kind=get_kind("demo.countdown"), owner_id=owner.pk)], key)
    assert Job.objects.count() == 2


def test_a_unique_key_is_held_until_its_job_is_final() -> None:
    owner = new_user()
    first = new_job(owner, unique_key="u")
    with pytest.raises(UniqueKeyTaken) as taken:
        new_job(owner, unique_key="u")
    assert taken.value.standing.pk == first.pk
    lifecycle.cancel(first.pk)
    new_job(owner, unique_key="u")
    with pytest.raises(UniqueKeyTaken):
        lifecycle.reopen(first.pk, by="somebody")


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_a_claim_takes_no_more_than_asked_whatever_the_planner_thinks() -> None:
    owner = new_user()
    new_job(owner)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job")
    for _ in range(12):
        new_job(owner)
    assert len(lifecycle.claim("default", WORKER)) == 1
    assert Job.objects.filter(status=Status.RUNNING).count() == 1


def test_a_job_that_is_put_back_is_due_at_once_and_nothing_is_counted() -> None:
    job = claimed_job(max_attempts=1, start_within_seconds=1)
    assert lifecycle.release(job)
    assert not lifecycle.release(job)
    Job.objects.filter(pk=job.pk, start_by__isnull=False).update(start_by=timezone.now() - timedelta(seconds=1))
    assert lifecycle.expire(10) == 0
    (again,) = lifecycle.claim("default", WORKER)
    assert (again.attempt, again.crashes, again.failures) == (1, 0, 0)
    assert types_of(job) == ["job.accepted", "job.started", "job.retrying", "job.started"]
