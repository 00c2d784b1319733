"""What is guessed of a job: its place in line and its end, who is told of them, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from jobs import estimates, kinds, lifecycle, queues
from jobs.estimates import estimates_of, place_in_line
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Outcome, Submission
from jobs.models import Job
from jobs.visibility import viewer_of
from notifications.push.consumers import visible_job
from tests.factories import claimed_job, new_job, new_user, played
from tests.jobs.api_client import Caller

pytestmark = pytest.mark.django_db

QueryCounter = Callable[..., AbstractContextManager[Any]]
QUICK, LIMITED, PRINTED = "test.quick", "test.limited", "test.printed"


@pytest.fixture(autouse=True)
def _own_kinds() -> Iterator[None]:
    estimates._usual.clear()
    kinds.kind(QUICK)(lambda _context, _params: None)
    kinds.kind(LIMITED, max_running=1)(lambda _context, _params: None)
    kinds.kind(PRINTED, queue="printer")(lambda _context, _params: None)
    yield
    estimates._usual.clear()
    for name in (QUICK, LIMITED, PRINTED):
        del kinds._registry[name]


@pytest.fixture
def caller() -> Caller:
    return Caller()


def stored(job: Job) -> Job:
    return Job.objects.get(pk=job.pk)


def place(job: Job) -> int | None:
    return place_in_line(stored(job))


def completed_job(seconds: float, **values: Any) -> Job:
    """Make a job whose handler took so long."""
    job = claimed_job(**values)
    lifecycle.finish([Outcome(job=job)])
    now = timezone.now()
    Job.objects.filter(pk=job.pk).update(started_at=now - timedelta(seconds=seconds), finished_at=now)
    return stored(job)


def finish_in(job: Job) -> float | None:
    """Say after how many seconds from its begin a job is expected to end."""
    finish_at, started_at = estimates_of(stored(job)).finish_at, stored(job).started_at
    return (finish_at - started_at).total_seconds() if finish_at and started_at else None


# --- The place in line ------------------------------------------------------------------------------------------------


def test_places_are_the_order_in_which_jobs_are_claimed() -> None:
    many, one = new_user(), new_user()
    jobs = [new_job(many), new_job(many), new_job(many), new_job(one), new_job(one, priority=7), new_job(priority=-7)]
    places = {job.pk: place(job) for job in jobs}
    assert [places[job.pk] for job in jobs] == [2, 4, 5, 3, 1, 6]
    in_order = sorted(jobs, key=lambda job: places[job.pk] or 0)
    for job in in_order:
        assert place(job) == 1
        assert [each.pk for each in lifecycle.claim("default", uuid4())] == [job.pk]


def test_what_lies_in_a_workers_hand_is_not_counted_until_its_lease_is_over() -> None:
    owner = new_user()
    jobs = [new_job(owner, kind=QUICK) for _ in range(4)]
    hand = lifecycle.claim("default", uuid4(), count=3, quick_kinds=[QUICK])
    assert [job.status for job in hand] == ["RUNNING", "PENDING", "PENDING"]
    assert place(jobs[3]) == 1
    Job.objects.filter(pk__in=[job.pk for job in hand]).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert [place(job) for job in jobs] == [None, 1, 2, 3]


def test_who_stands_in_no_line_has_no_place() -> None:
    retrying = claimed_job()
    lifecycle.finish([Outcome(job=retrying, error={"code": "away", "message": "It is away."})])
    done, running = completed_job(1), claimed_job()
    inside, at_gate = new_job(kind=LIMITED), new_job(kind=LIMITED)
    scheduled = new_job(run_at=timezone.now() + timedelta(hours=1))
    assert [place(job) for job in (retrying, done, running, at_gate, scheduled)] == [None] * 5
    assert place(inside) == 1


def test_each_queue_has_its_own_line_also_while_it_is_paused() -> None:
    new_job()
    queues.pause("printer", by="siti")
    jobs = [new_job(kind=PRINTED) for _ in range(2)]
    assert [place(job) for job in jobs] == [1, 2]


def test_a_place_far_behind_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "LAST_PLACE", 3)
    owner = new_user()
    jobs = [new_job(owner) for _ in range(5)]
    urgent = [new_job(owner, priority=1) for _ in range(2)]
    assert [place(job) for job in jobs] == [3, None, None, None, None]
    assert [place(job) for job in urgent] == [1, 2]


def test_the_place_is_counted_in_the_index_of_the_claims() -> None:
    job = stored(new_job())
    crowd = Submission(kind=get_kind("demo.countdown"), owner_id=new_user().pk)
    lifecycle.accept([crowd] * 300)  # or any index would do
    with CaptureQueriesContext(connection) as asked:
        assert place_in_line(job) == 1
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")
        word = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        cursor.execute(f"{word} {asked[0]['sql']}")
        plan = " ".join(str(row) for row in cursor.fetchall())
    assert plan.count("job_claim") == 2
    assert "j_1.turn, j_1.id) <" in plan or "ROW(turn, id) <" in plan or "turn<?" in plan, "a bound in the index"
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan


# --- The end ----------------------------------------------------------------------------------------------------------


def test_a_running_job_is_expected_to_take_as_long_as_its_kind_usually_does() -> None:
    for seconds in (10, 600, 20):
        completed_job(seconds)
    failed = claimed_job(max_attempts=1)
    lifecycle.finish([Outcome(job=failed, error={"code": "broken", "message": "It broke."})])
    assert finish_in(claimed_job()) == 20


def test_only_the_latest_runs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RUNS", 3)
    for seconds in (1000, 1000, 1000, 5, 6, 7):
        completed_job(seconds)
    assert finish_in(claimed_job()) == 6


def test_a_long_line_behind_a_running_job_hides_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MOST_LOOKED_AT", 2)
    completed_job(30)
    running = claimed_job()
    for _ in range(5):
        new_job()
    assert finish_in(running) == 30


def test_the_pace_of_its_progress_says_more_than_the_kind() -> None:
    completed_job(600)
    job = claimed_job()
    lifecycle.beat([Beat(job=job, progress={"percent": 50.0})])
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(seconds=10))
    assert finish_in(job) == pytest.approx(20, abs=2)


def test_nothing_is_guessed_where_nothing_is_known() -> None:
    first = claimed_job()
    assert finish_in(first) is None, "the first of its kind"
    lifecycle.finish([Outcome(job=first)])
    estimates._usual.clear()
    completed_job(10)
    late = claimed_job()
    Job.objects.filter(pk=late.pk).update(started_at=timezone.now() - timedelta(seconds=11))
    assert finish_in(late) is None, "it has taken longer already"
    assert finish_in(new_job()) is None
    assert finish_in(completed_job(1, priority=1)) is None


def test_the_usual_run_time_is_asked_for_once_a_minute(
    django_assert_num_queries: QueryCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed_job(10)
    job = stored(claimed_job())
    with django_assert_num_queries(1):
        assert estimates_of(job).finish_at == estimates_of(job).finish_at
    monkeypatch.setattr(estimates, "KEPT_SECONDS", 0)
    estimates._usual.clear()
    with django_assert_num_queries(2):
        assert estimates_of(job).finish_at == estimates_of(job).finish_at


# --- Who is told ------------------------------------------------------------------------------------------------------


def test_the_receipt_and_the_single_job_tell_the_place_and_lists_and_events_do_not(caller: Caller) -> None:
    answers = [caller.submit() for _ in range(3)]
    assert [each.json()["job"]["queuePosition"] for each in answers] == [1, 2, 3]
    limited = [caller.submit(kind=LIMITED, params={}) for _ in range(2)]
    assert [each.json()["job"]["queuePosition"] for each in limited] == [4, None], "the other waits at a gate"
    path = f"/api/jobs/{answers[2].json()['jobId']}"
    assert caller.get(path).json()["queuePosition"] == 3
    assert [each["queuePosition"] for each in caller.get("/api/jobs").json()["items"]] == [None] * 5
    assert [each["data"]["queuePosition"] for each in caller.get(f"{path}/events").json()["events"]] == [None]


def test_a_socket_that_subscribes_to_a_job_is_told_its_place() -> None:
    owner = new_user()
    jobs = [new_job(owner) for _ in range(2)]
    shown = visible_job(viewer_of(owner), jobs[1].pk)
    assert shown
    assert shown["queuePosition"] == 2


def test_the_single_job_tells_the_usual_end_and_lists_and_events_do_not(caller: Caller) -> None:
    completed_job(60, owner=caller.user)
    job = claimed_job(caller.user)
    told = caller.get(f"/api/jobs/{job.pk}").json()["estimatedFinishAt"]
    assert datetime.fromisoformat(told) - stored(job).started_at == timedelta(seconds=60)  # type: ignore[operator]
    newest = caller.get("/api/jobs").json()["items"][0]
    assert (newest["jobId"], newest["estimatedFinishAt"]) == (str(job.pk), None)
    events = caller.get(f"/api/jobs/{job.pk}/events").json()["events"]
    assert [each["data"]["estimatedFinishAt"] for each in events] == [None, None]


def test_a_replayed_receipt_of_a_job_that_went_on_guesses_nothing(caller: Caller) -> None:
    body, headers = {"kind": "demo.countdown"}, {"Idempotency-Key": "k"}
    assert caller.post("/api/jobs", body, headers=headers).json()["job"]["queuePosition"] == 1
    assert caller.post("/api/jobs", body, headers=headers).json()["job"]["queuePosition"] == 1
    lifecycle.finish([played(job) for job in lifecycle.claim("default", uuid4())])
    again = caller.post("/api/jobs", body, headers=headers).json()["job"]
    assert (again["status"], again["queuePosition"], again["estimatedFinishAt"]) == ("PENDING", None, None)


def test_estimates_stand_outside_the_etag(caller: Caller) -> None:
    first, second = new_job(caller.user), new_job(caller.user)
    path = f"/api/jobs/{second.pk}"
    before = caller.get(path)
    lifecycle.cancel(first.pk)
    after = caller.get(path)
    assert (before.json()["queuePosition"], after.json()["queuePosition"]) == (2, 1)
    assert before["ETag"] == after["ETag"]
    assert caller.get(path, headers={"If-None-Match": before["ETag"]}).status_code == 304


def test_a_look_at_a_job_in_line_costs_one_query_more(caller: Caller, django_assert_num_queries: QueryCounter) -> None:
    jobs = [new_job(caller.user) for _ in range(3)]
    path = f"/api/jobs/{jobs[2].pk}"
    etag = caller.get(path)["ETag"]
    with django_assert_num_queries(2):  # token and job, place
        caller.get(path)
    with django_assert_num_queries(1):
        caller.get(path, headers={"If-None-Match": etag})


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ["Next in line", "Number 2 in line", "Waits until fewer jobs of this kind run"]),
        ("id", ["Giliran berikutnya", "Antrean ke-2", "Menunggu sampai pekerjaan jenis ini yang berjalan berkurang"]),
    ],
)
def test_the_jobs_page_says_what_it_waits_for(language: str, texts: list[str]) -> None:
    owner, browser = new_user(), Client()
    browser.force_login(owner)
    browser.post("/preferences", {"language": language})
    jobs = [new_job(owner, kind=LIMITED), new_job(owner), new_job(owner, kind=LIMITED)]
    for job, text in zip(jobs, texts, strict=True):
        page = browser.get(reverse("job", args=[job.pk])).content.decode()
        assert [each for each in texts if each in page] == [text]
