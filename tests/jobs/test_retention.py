"""What is removed once its time is over, with all that belongs to it, and what stays."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.core.files.base import ContentFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import lifecycle, retention
from jobs.context import Context
from jobs.kinds import get_kind
from jobs.lifecycle import Idempotency, Submission
from jobs.models import Artifact, Batch, Event, EventType, IdempotencyKey, Job, JobUpload, Status, Upload
from jobs.retention import Looked
from jobs.sweeper import retention as sweeper
from jobs.sweeper.retention import Look, next_size
from tests.factories import claimed_job, new_job, new_user, played

if TYPE_CHECKING:
    from django.contrib.auth.models import User

COUNTDOWN = "demo.countdown"
PARAMS = {"seconds": 0, "steps": 1, "failures": 0}
FAILURE = {"code": "broken", "message": "It broke."}
NOW = timezone.now()
LATER = NOW + timedelta(days=1)


@pytest.fixture(autouse=True)
def _own_files(settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture(autouse=True)
def _looks_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_looks", sweeper.looks())


@dataclass
class Clock:
    """Stands in for the module `time`; each reading takes a second."""

    seconds: float = 0.0
    step: float = 1.0

    def monotonic(self) -> float:
        self.seconds += self.step
        return self.seconds


def submission(owner: User, **values: Any) -> Submission:
    return Submission(kind=get_kind(COUNTDOWN), owner_id=owner.pk, params=PARAMS, **values)


def finished_job(owner: User | None = None, *, is_expired: bool = True, **values: Any) -> Job:
    job = claimed_job(owner, **values)
    lifecycle.finish([played(job)])
    if is_expired:
        Job.objects.filter(pk=job.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    return Job.objects.get(pk=job.pk)


def finished_jobs(count: int) -> list[Job]:
    owner = new_user()
    lifecycle.accept([submission(owner)] * count)
    jobs: list[Job] = []
    while hand := lifecycle.claim("default", uuid4(), 32, [COUNTDOWN]):
        lifecycle.finish([played(job) for job in hand])
        jobs += hand
    Job.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    return jobs


def files(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


# --- Jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_an_expired_job_goes_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    owner = new_user()
    upload = Upload(owner=owner, name="in.csv", size=1, sha256="0" * 64, created_at=timezone.now())
    upload.file.save(f"uploads/{upload.id}", ContentFile(b"1"))
    key = Idempotency(key="once", owner_id=owner.pk, fingerprint="0" * 64)
    lifecycle.accept([submission(owner, uploads={"file": upload})], key)
    (job,) = lifecycle.claim("default", uuid4())
    Context(job).attach("out.txt", b"2")
    lifecycle.finish([played(job)])
    Job.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert len(files(tmp_path)) == 5, "two files, and three folders"

    assert sweeper.sweep() == 1
    for model in (Job, Event, JobUpload, Upload, Artifact, IdempotencyKey):
        assert not model._base_manager.exists(), model
    assert files(tmp_path) == {"uploads", "artifacts"}


@pytest.mark.django_db
def test_what_has_time_left_or_is_not_final_stays() -> None:
    finished_job(is_expired=False)
    running, pending = claimed_job(), new_job()
    Job.objects.filter(pk__in=[running.pk, pending.pk]).update(expires_at=timezone.now() - timedelta(seconds=1))
    events = Event.objects.count()
    assert sweeper.sweep() == 0
    assert retention.remove([running.pk, pending.pk]) == 0
    assert (Job.objects.count(), Event.objects.count()) == (3, events)


@pytest.mark.django_db
def test_an_upload_stays_while_another_job_names_it(tmp_path: Path) -> None:
    owner = new_user()
    upload = Upload(owner=owner, name="in.csv", size=1, sha256="0" * 64, created_at=timezone.now())
    upload.file.save(f"uploads/{upload.id}", ContentFile(b"1"))
    finished_job(owner, uploads={"file": upload})
    new_job(owner, uploads={"file": upload})
    assert sweeper.sweep() == 1
    assert Upload.objects.get().jobs.count() == 1
    assert (tmp_path / "uploads" / str(upload.id)).exists()


@pytest.mark.django_db
def test_a_job_outlives_the_one_that_it_was_retried_from() -> None:
    old = finished_job()
    young = new_job()
    Job.objects.filter(pk=young.pk).update(retried_from=old)
    assert sweeper.sweep() == 1
    assert Job.objects.get().retried_from is None
    connection.check_constraints()


@pytest.mark.django_db
def test_a_round_removes_many_jobs_by_few_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_jobs(300)
    monkeypatch.setattr(sweeper, "SMALLEST_BATCH", 100)
    monkeypatch.setattr(sweeper, "LARGEST_BATCH", 100)
    monkeypatch.setattr(sweeper, "ROUND_SECONDS", 60.0)
    with CaptureQueriesContext(connection) as queries:
        assert sweeper.sweep() == 300
    assert (Job.objects.count(), Event.objects.count()) == (0, 0)
    assert len(queries) <= 2 + 3 * 17


@pytest.mark.django_db
def test_a_round_ends_when_its_time_is_over_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_jobs(40)
    monkeypatch.setattr(sweeper, "ROUND_SECONDS", 3.5)  # the clock is read four times in a batch
    monkeypatch.setattr(sweeper, "time", Clock())
    assert sweeper.remove_expired() == sweeper.SMALLEST_BATCH
    monkeypatch.setattr(sweeper, "ROUND_SECONDS", 60.0)
    assert sweeper.remove_expired() == 40 - sweeper.SMALLEST_BATCH


def test_a_batch_becomes_as_large_as_its_time_allows() -> None:
    assert next_size(100, 0.05, aim=0.05) == 100
    assert next_size(100, 0.1, aim=0.05) == 50
    assert next_size(100, 0.001, aim=0.05) == 200, "a single quick one says little"
    assert next_size(100, 0.0, aim=0.05) == 200
    assert next_size(sweeper.LARGEST_BATCH, 0.001, aim=0.05) == sweeper.LARGEST_BATCH
    assert next_size(100, 50.0, aim=0.05) == sweeper.SMALLEST_BATCH


@pytest.mark.django_db
def test_python_collects_no_garbage_while_others_wait_and_does_again(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_job()
    seen = []

    def remove(ids: Any) -> int:
        seen.append(gc.isenabled())
        raise RuntimeError

    monkeypatch.setattr(retention, "remove", remove)
    with pytest.raises(RuntimeError):
        sweeper.sweep()
    assert (seen, gc.isenabled()) == ([False], True)


# --- Files of attempts that came to nothing ---------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_files_of_an_attempt_that_failed_go_and_those_of_the_one_that_completed_stay(tmp_path: Path) -> None:
    job = claimed_job()
    Context(job).attach("out.txt", b"first")
    lifecycle.finish([played(job, error=FAILURE)])
    assert retention.remove_left_artifacts(LATER, None, 10).removed == 0, "no other attempt has begun"
    Job.objects.update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(1)
    (again,) = lifecycle.claim("default", uuid4())
    Context(again).attach("out.txt", b"second")
    lifecycle.finish([played(again)])

    assert retention.remove_left_artifacts(LATER, None, 10) == Looked(removed=1, last=None)
    (left,) = Artifact.objects.all()
    assert (left.fence, Path(left.file.path).read_bytes()) == (again.fence, b"second")
    assert len([each for each in tmp_path.rglob("*") if each.is_file()]) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", [{"error": FAILURE, "retry": False}, {"is_cancelled": True}])
def test_files_of_a_job_that_came_to_nothing_go(tmp_path: Path, end: dict[str, Any]) -> None:
    job = claimed_job()
    Context(job).attach("out.txt", b"x")
    assert retention.remove_left_artifacts(LATER, None, 10).removed == 0, "it runs"
    lifecycle.finish([played(job, **end)])
    assert retention.remove_left_artifacts(NOW - timedelta(days=1), None, 10).removed == 0, "it is young"
    assert retention.remove_left_artifacts(LATER, None, 10).removed == 1
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


@pytest.mark.django_db
def test_a_look_goes_through_all_artifacts_page_by_page() -> None:
    job = claimed_job()
    for number in range(5):
        Context(job).attach(f"{number}.txt", b"x")
    lifecycle.finish([played(job, error=FAILURE, retry=False)])
    looked, removed = Looked(removed=0, last=None), []
    for _ in range(3):
        looked = retention.remove_left_artifacts(LATER, looked.last, 2)
        removed.append(looked.removed)
    assert (removed, looked.last) == ([2, 2, 1], None)


# --- Batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_finished_batch_goes_once_its_last_job_is_gone() -> None:
    owner = new_user()
    batch, (first, second) = lifecycle.accept_batch([submission(owner)] * 2, owner.pk)
    lifecycle.accept_batch([submission(owner, priority=-1)], owner.pk)
    lifecycle.finish([played(job) for job in lifecycle.claim("default", uuid4(), 2, [COUNTDOWN])])
    assert lifecycle.close_batches([batch.pk]) == 1
    assert retention.remove([first.pk]) == 1
    assert retention.remove_empty_batches(None, 10).removed == 0
    assert retention.remove([second.pk]) == 1
    assert retention.remove_empty_batches(None, 10) == Looked(removed=1, last=None)
    assert Batch.objects.get().pk != batch.pk
    assert not Event.objects.filter(type=EventType.BATCH_COMPLETED).exists()
    connection.check_constraints()


@pytest.mark.django_db
def test_a_batch_of_which_nobody_was_told_stays() -> None:
    owner = new_user()
    batch, (job,) = lifecycle.accept_batch([submission(owner)], owner.pk)
    lifecycle.finish([played(each) for each in lifecycle.claim("default", uuid4())])
    retention.remove([job.pk])
    assert retention.remove_empty_batches(None, 10).removed == 0
    lifecycle.close_batches([batch.pk])
    assert retention.remove_empty_batches(None, 10).removed == 1


# --- The sweeper's looks ----------------------------------------------------------------------------------------------


def test_a_look_takes_a_page_a_minute_and_begins_anew_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pages, asked, clock = [uuid4(), None, uuid4()], [], Clock(step=0.0)

    def remove(last: Any) -> Looked:
        asked.append(last)
        return Looked(removed=3, last=pages[len(asked) - 1])

    monkeypatch.setattr(sweeper, "time", clock)
    look = Look(remove)
    assert [look.go_on(), look.go_on()] == [3, 0]
    for minute in (1, 2):
        clock.seconds = minute * sweeper.LOOK_INTERVAL_SECONDS
        assert look.go_on() == 3
    assert asked == [None, pages[0], None]


@pytest.mark.django_db(transaction=True)
def test_the_sweeper_removes_what_is_left_over() -> None:
    owner = new_user()
    _, (accepted,) = lifecycle.accept_batch([submission(owner)], owner.pk)
    (job,) = lifecycle.claim("default", uuid4())
    lifecycle.finish([played(job)])
    retention.remove([accepted.pk])
    failed = claimed_job(owner)
    Context(failed).attach("out.txt", b"x")
    lifecycle.finish([played(failed, error=FAILURE, retry=False)])
    Artifact.objects.update(created_at=timezone.now() - 2 * sweeper.ARTIFACT_LEFT)
    assert Batch.objects.get().finished_at is not None
    assert sweeper.sweep() == 2
    assert (Batch.objects.count(), Artifact.objects.count()) == (0, 0)
    assert Job.objects.get().status == Status.FAILED
