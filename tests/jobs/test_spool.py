"""Ends that are kept on the disk while the database is away, and what is written down of them afterwards."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError

from jobs import hand as hand_module
from jobs import lifecycle, spool
from jobs.hand import Hand
from jobs.lifecycle import Outcome
from jobs.models import Event, Job, Status
from jobs.pace import Pace
from jobs.process import Process
from jobs.sql import statements
from tests.factories import claimed_job, new_job, played

pytestmark = pytest.mark.django_db

ERROR = {"code": "broken", "message": "It broke."}


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.DATA = tmp_path
    return tmp_path / "spool"


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"result": {"rows": [1, None, "é"]}, "progress": {"percent": 100.0}}, Status.COMPLETED),
        ({"error": ERROR, "retry": False, "traceback": "Traceback …"}, Status.FAILED),
        ({"error": ERROR, "retry_after": 100.0}, Status.PENDING),
        ({"is_cancelled": True}, Status.CANCELLED),
    ],
)
def test_an_end_that_was_kept_is_written_as_its_worker_would_have(values: dict[str, Any], status: Status) -> None:
    kept, direct = claimed_job(), claimed_job()
    spool.keep([played(kept, **values)])
    assert spool.write_down() == 1
    lifecycle.finish([played(direct, **values)])
    kept, direct = Job.objects.get(pk=kept.pk), Job.objects.get(pk=direct.pk)
    assert (kept.status, kept.result, kept.error, kept.attempt) == (
        status,
        direct.result,
        direct.error,
        direct.attempt,
    )
    assert (kept.traceback, kept.progress, kept.failures) == (direct.traceback, direct.progress, direct.failures)
    assert list(_types(kept)) == list(_types(direct))
    if kept.finished_at and direct.finished_at:
        assert abs(kept.finished_at - direct.finished_at) < timedelta(seconds=5)
    assert spool.write_down() == 0, "it is kept no longer"


def test_a_reserved_jobs_begin_is_told_with_its_kept_end() -> None:
    for _ in range(2):
        new_job()
    _, reserved = lifecycle.claim("default", uuid4(), 2, ["demo.countdown"])
    spool.keep([played(reserved, result=1)])
    assert spool.write_down() == 1
    job = Job.objects.get(pk=reserved.pk)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert list(_types(job)) == ["job.accepted", "job.started", "job.completed"]


def test_an_end_that_comes_too_late_is_dropped(folder: Path) -> None:
    job = claimed_job()
    spool.keep([played(job, result="old")])
    Job.objects.filter(pk=job.pk).update(lease_until=statements().now() - timedelta(seconds=1))
    lifecycle.rescue(10)
    before = Job.objects.filter(pk=job.pk).values().get()
    assert spool.write_down() == 0
    assert Job.objects.filter(pk=job.pk).values().get() == before
    assert not list(folder.iterdir())


def test_an_end_stays_on_the_disk_until_the_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    job = claimed_job()
    spool.keep([played(job, result=1)])
    with monkeypatch.context() as patch:

        def away(_outcomes: Any) -> Any:
            raise OperationalError("the database is away")

        patch.setattr(lifecycle, "finish", away)
        with pytest.raises(OperationalError):
            spool.write_down()
    assert spool.write_down() == 1
    assert Job.objects.get(pk=job.pk).status == Status.COMPLETED


def test_only_its_own_user_can_read_what_is_kept(folder: Path) -> None:
    spool.keep([played(claimed_job(), result="secret")])
    (path,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_file_that_is_no_end_holds_nothing_up(folder: Path) -> None:
    job = claimed_job()
    spool.keep([played(job, result=1)])
    (folder / "00000000-1.json").write_text('{"job": ')
    of_another_version = {"job": str(uuid4()), "fence": 1, "began_at": 0.0}
    (folder / "00000000-2.json").write_text(json.dumps(of_another_version))
    assert spool.write_down() == 1
    assert sorted(each.name for each in folder.iterdir()) == ["00000000-1.unreadable", "00000000-2.unreadable"]


def test_a_disk_that_is_full_is_said_and_costs_the_worker_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_write", full)
    spool.keep([played(claimed_job(), result=1)])
    assert "can't be kept on the disk" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_worker_keeps_ends_on_the_disk_while_the_database_is_away_and_none_afterwards(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(hand_module, "RETRY_PAUSE_SECONDS", 0.0)
    seen: list[dict[str, Any]] = []
    trade, tries = lifecycle.trade, 0

    def away(outcomes: list[Outcome], want: Any) -> Any:
        nonlocal tries
        tries += bool(outcomes)
        if outcomes and tries <= 3:
            seen.extend(json.loads(each.read_text()) for each in folder.glob("*.json"))
            raise OperationalError("the database is away")
        return trade(outcomes, want)

    monkeypatch.setattr(lifecycle, "trade", away)
    job = new_job()
    hand = Hand("default", Process(), Pace(), threading.Event())
    while each := hand.next(may_claim=True):
        hand.play(each)
    assert [each["job"] for each in seen] == [str(job.pk)]
    assert not list(folder.iterdir())
    assert Job.objects.get(pk=job.pk).status == Status.COMPLETED


def _types(job: Job) -> Any:
    return Event.objects.filter(job=job.pk).order_by("sequence").values_list("type", flat=True)
