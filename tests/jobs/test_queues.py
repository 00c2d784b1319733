"""Pausing a queue: none of its jobs begins, nothing is lost, and all goes on when it is resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from jobs import doorbell, kinds, lifecycle, queues
from jobs.hand import Hand
from jobs.kinds import kind
from jobs.lifecycle import Outcome
from jobs.models import Job, PausedQueue, Status, Worker
from jobs.pace import Pace
from jobs.process import Process
from jobs.sweeper import ring
from tests.factories import new_job, new_user

pytestmark = pytest.mark.django_db

QUICK, ELSEWHERE = "test.quick", "test.elsewhere"


@pytest.fixture(autouse=True)
def _own_kinds() -> Iterator[None]:
    kind(QUICK)(lambda _context, _params: None)
    kind(ELSEWHERE, queue="elsewhere")(lambda _context, _params: None)
    yield
    for name in (QUICK, ELSEWHERE):
        del kinds._registry[name]


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note which bells are rung, in place of ringing them."""
    rung: list[tuple[str, int]] = []
    monkeypatch.setattr(doorbell, "ring", lambda queue, count=1, task="": rung.append((queue, count)))
    return rung


def submitted(count: int = 1, name: str = QUICK, **values: Any) -> list[Job]:
    owner = new_user()
    return [new_job(owner, name, params={}, **values) for _ in range(count)]


def claimed(queue: str = "default", count: int = 1) -> list[Job]:
    return lifecycle.claim(queue, uuid4(), count, [QUICK])


def test_nothing_is_claimed_of_a_paused_queue_until_it_is_resumed() -> None:
    jobs = submitted(2)
    assert queues.pause("default", by="somebody")
    assert claimed(count=5) == []
    jobs += submitted()
    assert claimed() == []
    assert {job.status for job in Job.objects.all()} == {Status.PENDING}
    assert queues.resume("default")
    assert {job.pk for job in claimed(count=5)} == {job.pk for job in jobs}


def test_a_queue_is_paused_once_and_says_by_whom() -> None:
    assert queues.pause("default", by="one")
    assert not queues.pause("default", by="another")
    assert PausedQueue.objects.get().paused_by == "one"
    assert queues.resume("default")
    assert not queues.resume("default")
    assert not PausedQueue.objects.exists()


def test_other_queues_go_on() -> None:
    (elsewhere,), (here,) = submitted(name=ELSEWHERE), submitted()
    queues.pause("elsewhere", by="somebody")
    assert claimed("elsewhere") == []
    assert [job.pk for job in claimed()] == [here.pk]
    queues.resume("elsewhere")
    assert [job.pk for job in claimed("elsewhere")] == [elsewhere.pk]


def test_what_runs_goes_on_and_what_lies_in_hand_is_played() -> None:
    submitted(5)
    hand = Hand("default", Process(), Pace(), threading.Event())
    for _ in range(2):  # a hand of one, then a hand of two
        job = hand.next(may_claim=True)
        assert job
        if hand.reserved:
            queues.pause("default", by="somebody")
        hand.play(job)
    while job := hand.next(may_claim=True):
        hand.play(job)
    by_status = [job.status for job in Job.objects.order_by("id")]
    assert by_status == [*[Status.COMPLETED] * 3, *[Status.PENDING] * 2]


def test_an_end_is_written_in_a_paused_queue() -> None:
    submitted(2)
    (running,) = claimed()
    queues.pause("default", by="somebody")
    assert lifecycle.finish([Outcome(job=running, result=1)]) == {running.pk}
    assert Job.objects.get(pk=running.pk).status == Status.COMPLETED


def test_jobs_of_a_paused_queue_are_cancelled_promoted_and_expire_as_ever() -> None:
    queues.pause("default", by="somebody")
    (cancelled,), (late,) = submitted(), submitted(start_within_seconds=5)
    (scheduled,) = submitted(run_at=timezone.now() + timedelta(hours=1))
    assert lifecycle.cancel(cancelled.pk).status == Status.CANCELLED
    past = timezone.now() - timedelta(seconds=1)
    Job.objects.filter(pk=late.pk).update(start_by=past)
    assert lifecycle.expire(10) == 1
    Job.objects.filter(pk=scheduled.pk).update(run_at=past)
    assert lifecycle.promote(10) == {"default": 1}
    assert claimed() == []
    queues.resume("default")
    assert [job.pk for job in claimed()] == [scheduled.pk]


def test_a_rescued_job_of_a_paused_queue_waits() -> None:
    (job,) = submitted()
    claimed()
    queues.pause("default", by="somebody")
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert lifecycle.rescue(10) == 1
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(10)
    assert claimed() == []


def test_a_given_back_job_of_a_paused_queue_waits() -> None:
    submitted(2)
    hand = claimed(count=2)
    queues.pause("default", by="somebody")
    lifecycle.give_back(hand[1:])
    assert claimed() == []
    queues.resume("default")
    assert [job.pk for job in claimed()] == [hand[1].pk]


def test_resuming_rings_and_resuming_what_was_not_paused_does_not(
    bells: list[tuple[str, int]], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        queues.resume("default")
        queues.pause("default", by="somebody")
    assert bells == []
    with django_capture_on_commit_callbacks(execute=True):
        queues.resume("default")
    assert [queue for queue, _ in bells] == ["default"]


def test_the_sweeper_does_not_ring_for_a_paused_queue(bells: list[tuple[str, int]]) -> None:
    submitted(3)
    submitted(2, ELSEWHERE)
    now = timezone.now()
    Job.objects.update(ready_at=now - timedelta(seconds=5))
    Worker.objects.create(
        id=uuid4(), host="here", pid=1, queues=["default", "elsewhere"], slots=4, started_at=now, seen_at=now
    )
    queues.pause("default", by="somebody")
    assert ring.sweep() == 2
    assert bells == [("elsewhere", 2)]
    queues.resume("default")
    bells.clear()
    assert ring.sweep() == 5
    assert sorted(bells) == [("default", 3), ("elsewhere", 2)]


def test_a_queue_is_paused_from_the_command_line() -> None:
    submitted()

    def manage(*arguments: str) -> str:
        call_command(*arguments, stdout=(output := StringIO()))
        return output.getvalue()

    assert "is paused" in manage("pause_queue", "default")
    assert claimed() == []
    assert "already" in manage("pause_queue", "default")
    assert "is resumed" in manage("resume_queue", "default")
    assert "was not paused" in manage("resume_queue", "default")
    assert len(claimed()) == 1
