"""Metrics: what is counted and for how long it is kept, what stands, who may read, and what a fault costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.http import HttpRequest
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from jobs import kinds, lifecycle, metrics, queues, runner
from jobs.api import scrape
from jobs.guard import Guard
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Submission
from jobs.metrics import counted, faults, files, gauges
from jobs.models import Job, Status, Worker
from jobs.process import Process
from jobs.sweeper import presence
from notifications.metrics import of_webhooks
from tests.factories import claimed_job, new_job, new_user, played
from tests.jobs.api_client import check_problem
from tests.metrics import Scrape

KIND = "demo.countdown"
FAILING = "test.metrics_failing"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _failing() -> Iterator[None]:
    """Have a kind whose handler fails."""

    def fail(context: Any, params: dict[str, Any]) -> None:
        raise RuntimeError("as it should")

    kind(FAILING, max_attempts=2)(fail)
    yield
    del kinds._registry[FAILING]


@pytest.fixture
def _watchman(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have what `runner.work` runs looked after by a guard of the test's own."""
    watching = Guard(Process())
    monkeypatch.setattr(runner, "guard", lambda: watching)
    watching.start()
    yield
    watching.close()


def counts() -> Scrape:
    """Read what all processes on this data folder have counted."""
    return Scrape.of_text(generate_latest(Counts()).decode())


class Counts(CollectorRegistry):
    def collect(self) -> Any:
        return files.read()


class Since:
    """How much series have grown."""

    def __init__(self) -> None:
        self._before = counts()

    def __call__(self, name: str, **labels: str) -> float:
        return counts().total(name, **labels) - self._before.total(name, **labels)


def counting_process(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that counts into this data folder."""
    script = "\n".join(("import os, signal, django", "django.setup()", "from jobs import metrics", *lines))
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(autouse=True)
def _no_pause() -> Iterator[None]:
    """Have counts that failed in one test be tried in the next."""
    yield
    faults._paused_until = 0.0


# --- Jobs are counted -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_failing", "_watchman")
@pytest.mark.django_db(transaction=True)
def test_each_step_of_a_job_is_counted_once() -> None:
    since = Since()
    owner = new_user()
    lifecycle.accept([Submission(kind=get_kind(KIND), owner_id=owner.pk, params={"seconds": 0, "steps": 1})] * 5)
    new_job(owner, FAILING, params={})
    assert runner.work("default") == 6
    assert since("kabar_jobs_accepted_total", kind=KIND) == 5
    assert since("kabar_attempts_started_total", kind=KIND) == 5
    assert since("kabar_jobs_finished_total", kind=KIND, status="completed") == 5
    assert since("kabar_handler_duration_seconds_count", kind=KIND) == 5
    assert since("kabar_jobs_retried_total", kind=FAILING, reason="failure") == 1
    assert since("kabar_attempts_started_total", kind=FAILING) == 1
    assert since("kabar_queue_wait_seconds_count", queue="default") == 6
    assert since("kabar_jobs_finished_total") == 5
    assert since("kabar_leases_lost_total") == since("kabar_jobs_crashed_total") == 0


@pytest.mark.django_db(transaction=True)
def test_the_wait_is_the_time_since_a_job_was_due() -> None:
    job = new_job()
    Job.objects.update(ready_at=timezone.now() - timedelta(seconds=100), created_at=timezone.now() - timedelta(days=9))
    since = Since()
    (claimed,) = lifecycle.claim("default", uuid4())
    assert claimed.pk == job.pk
    assert since("kabar_queue_wait_seconds_sum", queue="default") == pytest.approx(100, abs=5)


@pytest.mark.django_db(transaction=True)
def test_what_others_do_to_jobs_is_counted_by_why() -> None:
    since = Since()
    pending = new_job()
    lifecycle.cancel(pending.pk)
    lifecycle.reopen(pending.pk, "somebody")
    worker = uuid4()
    (claimed,) = lifecycle.claim("default", worker)
    lifecycle.rescue_worker(worker, claimed.pk, ["default"])
    assert since("kabar_jobs_finished_total", kind=KIND, status="cancelled") == 1
    assert since("kabar_jobs_retried_total", kind=KIND, reason="asked") == 1
    assert since("kabar_jobs_crashed_total", kind=KIND) == 1
    assert since("kabar_jobs_retried_total", kind=KIND, reason="worker_lost") == 1


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    since = Since()

    def fail(*_: Any) -> None:
        raise OperationalError("the disk is full")

    monkeypatch.setattr("jobs.lifecycle.promising.ring_on_commit", fail)
    with pytest.raises(OperationalError):
        new_job()
    assert since("kabar_jobs_accepted_total") == 0


@pytest.mark.django_db(transaction=True)
def test_a_job_of_a_kind_that_is_gone_counts_as_other() -> None:
    job = new_job()
    Job.objects.update(kind="no.such_kind")
    since = Since()
    lifecycle.cancel(job.pk)
    assert since("kabar_jobs_finished_total", kind="other", status="cancelled") == 1
    assert not counts().total("kabar_jobs_finished_total", kind="no.such_kind")


@pytest.mark.django_db(transaction=True)
def test_an_attempt_that_was_fenced_off_is_no_end() -> None:
    job = claimed_job()
    Job.objects.filter(pk=job.pk).update(fence=job.fence + 1)
    since = Since()
    assert not lifecycle.finish([played(job)])
    assert since("kabar_jobs_finished_total") == 0


def test_many_values_are_observed_as_one_by_one() -> None:
    values = [0.0, 0.001, 0.0011, 0.3, 5, 1800, 1801, *(number / 7 for number in range(50))]
    one_by_one, at_once = (
        Histogram(f"test_{name}", "A test.", ["kind"], buckets=counted.SHORT_AND_LONG, registry=None)
        for name in ("one_by_one", "at_once")
    )
    for value in values:
        one_by_one.labels("x").observe(value)
    counted.observe_all(at_once.labels("x"), values)
    found = counts()

    def shape(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (each, labels), value in found.samples.items() if each == f"{name}_bucket"}

    assert shape("test_one_by_one") == shape("test_at_once")
    assert found.total("test_at_once_sum") == pytest.approx(found.total("test_one_by_one_sum"))
    assert found.total("test_at_once_count") == len(values)


# --- Counts outlive their process -------------------------------------------------------------------------------------


def places() -> set[str]:
    return {path.stem for path in files.FOLDER.glob("*.lock")}


def test_a_killed_process_leaves_its_counts_and_its_place() -> None:
    since = Since()
    count = (f"metrics.count_lost_lease({KIND!r})", "os.kill(os.getpid(), signal.SIGKILL)")
    assert counting_process(*count).returncode < 0
    assert since("kabar_leases_lost_total", kind=KIND) == 1
    standing = places()
    for _ in range(2):
        assert counting_process(*count).returncode < 0
    assert since("kabar_leases_lost_total", kind=KIND) == 3
    assert places() == standing


def test_a_forked_child_counts_for_itself() -> None:
    since = Since()
    done = counting_process(
        f"metrics.count_lost_lease({KIND!r})",
        "from jobs.metrics import files",
        "pid = os.fork()",
        f"for _ in range(10): metrics.count_lost_lease({KIND!r})",
        "if pid: os.waitpid(pid, 0)",
        "print(files.place_of_process(), flush=True)",
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 2
    assert since("kabar_leases_lost_total", kind=KIND) == 21


def test_a_process_that_only_reads_makes_no_files() -> None:
    before = places()
    done = counting_process("from jobs.metrics import files", "print(len(list(files.read())))")
    assert done.returncode == 0, done.stderr
    assert places() == before


def test_connections_end_with_their_process() -> None:
    opened = "metrics.connection(metrics.Door.STREAM).__enter__()"
    read = "print(sum(s.value for m in files.read() if m.name == 'kabar_connections' for s in m.samples))"
    done = counting_process("from jobs.metrics import files", opened, read, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode < 0
    assert counts().total("kabar_connections") == 0


def test_a_damaged_file_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    place = files.take_place()
    path = files.FOLDER / f"counter_{place.number}.db"
    path.write_bytes(b"\xff\x00\x00\x00" + bytes(4) + b"\x10\x00\x00\x00" + bytes(500))
    os.close(place.lock)
    again = files.take_place()
    assert again.number == place.number
    assert "damaged" in caplog.text
    counts()
    os.close(again.lock)


def test_files_have_their_room_on_the_disk() -> None:
    """A write through a mapping where the disk has no room would kill the process."""
    metrics.count_lost_lease(KIND)
    for path in files.FOLDER.glob("*_*.db"):
        told = path.stat()
        assert told.st_blocks * 512 >= told.st_size > 0


# --- A fault costs nothing else ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_watchman")
@pytest.mark.django_db(transaction=True)
def test_jobs_run_though_nothing_can_be_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    monkeypatch.setattr(files, "FOLDER", no_folder)
    monkeypatch.setattr(files, "_place", None)
    job = new_job()
    assert runner.work("default") == 1
    job.refresh_from_db()
    assert job.status == Status.COMPLETED
    assert caplog.text.count("Nothing is counted") == 1


def test_after_a_fault_counting_goes_on_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    since = Since()

    @metrics.harmless
    def fail() -> None:
        raise OSError("no space left")

    fail()
    metrics.count_lost_lease(KIND)
    assert since("kabar_leases_lost_total") == 0
    monkeypatch.setattr(faults, "_paused_until", 0.0)
    metrics.count_lost_lease(KIND)
    assert since("kabar_leases_lost_total") == 1


# --- What stands ------------------------------------------------------------------------------------------------------


def standing(*sources: Callable[[], Any]) -> Scrape:
    class Sources(CollectorRegistry):
        def collect(self) -> Any:
            return [metric for source in sources for metric in source()]

    return Scrape.of_text(generate_latest(Sources()).decode())


@pytest.mark.django_db
def test_lines_and_workers_are_told_by_queue() -> None:
    now = timezone.now()
    owner = new_user()
    for priority in (0, 5, -5):
        new_job(owner, priority=priority)
    oldest = new_job(new_user(), priority=-5)
    Job.objects.filter(pk=oldest.pk).update(ready_at=now - timedelta(seconds=300))
    new_job(owner, run_at=now + timedelta(hours=1))
    running = new_job(owner, priority=100)
    assert lifecycle.claim("default", uuid4())[0].pk == running.pk
    for pid, slots in ((1, 1), (2, 3)):
        Worker.objects.create(
            id=uuid4(), host="here", pid=pid, queues=["default"], slots=slots, started_at=now, seen_at=now
        )
    presence.sweep()
    found = standing(gauges.of_jobs)
    assert {
        name: found.value(f"kabar_queue_{name}", queue="default")
        for name in ("pending", "scheduled", "running", "paused", "workers", "slots")
    } == {"pending": 4, "scheduled": 1, "running": 1, "paused": 0, "workers": 2, "slots": 4}
    assert found.value("kabar_queue_oldest_pending_seconds", queue="default") == pytest.approx(300, abs=30)
    assert found.value("kabar_sweepers") == 1
    queues.pause("default", by="somebody")
    assert standing(gauges.of_jobs).value("kabar_queue_paused", queue="default") == 1


@pytest.mark.sqlite_only
@pytest.mark.django_db
def test_gauges_look_into_indexes() -> None:
    with CaptureQueriesContext(connection) as asked:
        gauges.of_jobs()
        of_webhooks()
    plans = []
    with connection.cursor() as cursor:
        for query in asked.captured_queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            plans += [row[-1] for row in cursor.fetchall()]
    reads = [each for each in plans if re.match("(SCAN|SEARCH) (jobs_job|notifications_delivery)", each)]
    assert len(reads) > 5
    assert all("USING" in each for each in reads), reads
    assert not [each for each in reads if "job_by_" in each], "an index that holds finished jobs too"


@pytest.mark.django_db
def test_nothing_in_line_is_no_age() -> None:
    found = standing(gauges.of_jobs, of_webhooks)
    assert found.value("kabar_queue_oldest_pending_seconds", queue="default") == 0
    assert found.value("kabar_webhook_deliveries_pending") == found.value("kabar_webhooks_disabled") == 0


@pytest.mark.django_db
def test_a_queue_that_nobody_declares_is_other() -> None:
    new_job()
    Job.objects.update(status=Status.RUNNING, queue="of.nobody", lease_until=timezone.now(), ready_at=None)
    found = standing(gauges.of_jobs)
    assert found.value("kabar_queue_running", queue="other") == 1
    assert "of.nobody" not in str(found.samples)


@pytest.mark.django_db
def test_gauges_are_asked_once_for_many_readers() -> None:
    kept = gauges.Standing()
    kept.collect()
    with CaptureQueriesContext(connection) as asked:
        kept.collect()
    assert len(asked) == 0


def test_a_database_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Sequence[Any]:
        raise OperationalError("connection refused")

    monkeypatch.setattr(gauges, "_sources", [away])
    found = standing(gauges.Standing().collect)
    assert found.samples == {("kabar_database_up", frozenset()): 0.0}


# --- Who may read -----------------------------------------------------------------------------------------------------


def read_by(address: str, **headers: str) -> Any:
    return Client(raise_request_exception=False).get("/metrics", headers=headers, REMOTE_ADDR=address)


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_whoever_is_on_this_machine_may_read(address: str) -> None:
    response = read_by(address)
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    found = Scrape.of_text(response.content.decode())
    assert (found.value("kabar_database_up"), found.value("kabar_broker_up")) == (1, 1)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", ""])
def test_others_may_not(address: str) -> None:
    check_problem(read_by(address), 403)


@pytest.mark.parametrize("header", scrape.OF_PROXIES)
def test_a_proxy_on_this_machine_may_not(header: str) -> None:
    check_problem(read_by("127.0.0.1", **{header: "x"}), 403)


@pytest.mark.django_db
def test_with_a_token_it_alone_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "METRICS_TOKEN", "s3cret-\N{SNOWMAN}".encode().decode("latin-1"))
    token = settings.METRICS_TOKEN
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": token}, {"Authorization": f"Basic {token}"}):
        refusal = read_by("127.0.0.1", **headers)
        check_problem(refusal, 401)
        assert refusal["WWW-Authenticate"] == "Bearer"
        assert token not in refusal.content.decode()
    bearer = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
    assert read_by("192.0.2.1", **bearer).status_code == 200


@pytest.mark.django_db
def test_other_pages_and_rates_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CORS_ALLOWED_ORIGINS", ["https://app.example"])
    response = read_by("127.0.0.1", Origin="https://app.example")
    assert not [name for name in response.headers if name.lower().startswith(("access-control", "ratelimit"))]


@pytest.mark.django_db
def test_the_reader_chooses_the_format() -> None:
    response = read_by("127.0.0.1", Accept="application/openmetrics-text;version=1.0.0")
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.content.endswith(b"# EOF\n")


def test_it_is_only_read() -> None:
    assert Client().post("/metrics").status_code == 405


@pytest.mark.django_db
def test_unreadable_counts_leave_the_gauges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path / "gone")
    found = Scrape.of_text(read_by("127.0.0.1").content.decode())
    assert found.value("kabar_database_up") == 1


def test_a_request_without_address_is_not_from_here() -> None:
    assert not scrape.is_from_here(HttpRequest())
