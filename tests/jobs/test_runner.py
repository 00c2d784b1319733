"""How a worker runs a job: what the handler may do, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from pytest_django import Settings

from jobs import guard, kinds, lifecycle, log, runner, wakeup
from jobs.attempt import arguments
from jobs.context import MOST_LINES, Context
from jobs.failures import JobCancelled, JobFailure, JobTimedOut, LeaseLost
from jobs.guard import Guard
from jobs.hand import Hand
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Beat, Held, Outcome
from jobs.models import Artifact, Job, Status, Worker
from jobs.pace import Pace
from jobs.process import Process
from tests.factories import claimed_job, new_job, new_user
from tests.waiting import wait_until

Handler = Callable[[Context, dict[str, Any]], Any]
Declare = Callable[[Handler], str]


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Give a function that makes a handler a kind for the time of the test, and gives the kind's name."""
    names: list[str] = []

    def make(handler: Handler) -> str:
        name = f"test.kind{len(names)}"
        names.append(name)
        kind(name, timeout=60)(handler)
        return name

    yield make
    for name in names:
        del kinds._registry[name]


@pytest.fixture(autouse=True)
def _own_files(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path


def new_hand(process: Process | None = None) -> Hand:
    return Hand("default", process or Process(), Pace(), threading.Event())


def run_unguarded(job: Job) -> Job:
    """Run a claimed job as a worker does, without a guard, and read it again."""
    hand = new_hand()
    hand.play(job)
    hand.next(may_claim=False)
    return Job.objects.get(pk=job.pk)


def ran(declare: Declare, handler: Handler, **values: Any) -> Job:
    chosen: dict[str, Any] = {"max_attempts": 1, "params": {}} | values
    return run_unguarded(claimed_job(kind=declare(handler), **chosen))


def code_of(job: Job) -> str | None:
    return job.error["code"] if job.error else None


def message_of(job: Job) -> str:
    assert job.error
    message: str = job.error["message"]
    return message


def percent_of(job: Job) -> float:
    assert job.progress
    percent: float = job.progress["percent"]
    return percent


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("result", "kept"),
    [
        (None, None),
        ("text", "text"),
        ("null", "null"),
        ({"a": [1, 2.5, True, None], "ä": "€"}, {"a": [1, 2.5, True, None], "ä": "€"}),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.get_default_timezone()), "2026-01-02T03:04:05Z"),
        (10**30, 10**30),
        ("\\u0000 is no NUL", "\\u0000 is no NUL"),
        (nested(100), nested(100)),
    ],
)
def test_a_result_is_any_json(declare: Declare, result: Any, kept: Any) -> None:
    job = ran(declare, lambda _context, _params: result)
    assert (job.status, job.result, job.error) == (Status.COMPLETED, kept, None)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "result",
    [
        object(),
        {1, 2},
        b"bytes",
        float("nan"),
        {"a": [float("inf")]},
        "NUL \0",
        {"NUL \0": 1},
        "\ud800",
        {"\ud800": 1},
        CYCLE,
        nested(101),
        nested(400),
        nested(5000),
        10**5000,
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int | list) else type(value).__name__,
)
def test_what_is_no_result_fails_the_attempt_with_a_word(declare: Declare, result: Any) -> None:
    job = ran(declare, lambda _context, _params: result)
    assert (job.status, code_of(job), job.result) == (Status.FAILED, "result_invalid", None)


@pytest.mark.django_db
def test_a_result_over_its_limit_tells_to_attach_a_file(declare: Declare, settings: Settings) -> None:
    fits = "x" * (settings.MAX_RESULT_BYTES - 2)
    assert ran(declare, lambda _context, _params: fits).result == fits
    job = ran(declare, lambda _context, _params: fits + "€")
    assert code_of(job) == "result_too_large"
    assert "attach" in message_of(job)


# --- What a handler raises --------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fault",
    [
        ValueError("plain"),
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        RecursionError(),
        MemoryError(),
        ValueError("NUL \0"),
        ValueError("lone \ud800"),
        ExceptionGroup("several", [ValueError("\0")]),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_a_handler_raises_ends_its_attempt(declare: Declare, fault: BaseException) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise fault

    job = ran(declare, handler)
    assert (job.status, code_of(job)) == (Status.FAILED, "handler_failed")
    assert type(fault).__name__ in message_of(job)
    assert type(fault).__name__ in job.traceback
    assert __file__ not in str(job.error)


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["plain", "NUL \0", "lone \ud800", "long " * 10_000])
def test_a_failure_says_what_its_user_reads(declare: Declare, text: str) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise JobFailure(f"code {text}"[:30], text)

    job = ran(declare, handler, max_attempts=3)
    assert (job.status, job.attempt) == (Status.FAILED, 1)
    assert code_of(job) == f"code {text}"[:30].replace("\0", "\ufffd").replace("\ud800", "?")
    assert message_of(job).startswith(text[:4])
    assert len(message_of(job)) <= 2000


@pytest.mark.django_db
def test_a_failure_that_another_attempt_may_mend_is_followed_by_one(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise JobFailure("busy", "Try again.", retry=True)

    job = ran(declare, handler, max_attempts=2)
    assert (job.status, code_of(job)) == (Status.PENDING, "busy")
    assert job.run_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_a_handler_leaves_open_leaves_nothing(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> str:
        transaction.atomic().__enter__()
        new_user()
        return "done"

    job = claimed_job(kind=declare(handler), params={})
    run_unguarded(job)
    job.refresh_from_db()
    assert (job.status, job.result) == (Status.COMPLETED, "done")


# --- The context ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "percent"),
    [
        ({"percent": 42}, 42.0),
        ({"percent": 42.06}, 42.1),
        ({"percent": -5}, 0.0),
        ({"percent": 250}, 100.0),
        ({"current": 1, "total": 3}, 33.3),
        ({"current": 9, "total": 3}, 100.0),
        ({"current": 1, "total": 0}, None),
        ({"current": 1}, None),
        ({"percent": float("nan")}, None),
        ({"current": float("nan"), "total": float("inf")}, None),
        ({"current": 10**400, "total": 10**401}, None),
    ],
)
def test_progress_is_a_percentage_that_json_can_hold(call: dict[str, Any], percent: float | None) -> None:
    context = Context(Job(max_attempts=1))
    context.progress(**call)
    progress = context.take_notes().progress
    assert progress is not None
    assert progress["percent"] == percent
    assert all(value is None or abs(value) < 2**63 for name, value in progress.items() if name != "message")


def test_progress_counts_with_whatever_is_a_number() -> None:
    import numpy

    context = Context(Job(max_attempts=1))
    counted: dict[str, Any] = {"current": numpy.int64(1), "total": numpy.float32(4)}
    context.progress(**counted)
    progress = context.take_notes().progress
    assert progress == {"percent": 25.0, "message": None, "current": 1.0, "total": 4.0}
    assert {type(value) for value in progress.values()} == {float, type(None)}
    with pytest.raises((TypeError, ValueError)):
        context.progress(current="many")  # type: ignore[arg-type]


def test_a_message_stays_until_another_comes_and_is_clean() -> None:
    context = Context(Job(max_attempts=1))
    context.progress(1, "first \0 \ud800")
    context.progress(2)
    progress = context.take_notes().progress
    assert progress is not None
    assert progress["message"] == "first \ufffd ?"


def test_notes_that_could_not_be_written_come_back_before_newer_ones() -> None:
    context = Context(Job(max_attempts=1))
    context.progress(1)
    context.log("one")
    notes = context.take_notes()
    assert not context.has_notes
    context.progress(2)
    context.log("two")
    context.put_back(notes)
    again = context.take_notes()
    assert again.progress is not None
    assert again.progress["percent"] == 2.0
    assert [line["message"] for line in again.lines] == ["one", "two"]
    assert again.moments == sorted(again.moments)


def test_a_log_line_has_a_known_level() -> None:
    context = Context(Job(max_attempts=1))
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        context.log("x", "loud")
    assert not context.has_notes


@pytest.mark.django_db
def test_a_job_keeps_its_first_thousand_lines_over_all_attempts(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        for each in range(700):
            context.log(f"line {each} \0 \ud800 " + "x" * 3000)
        raise JobFailure("again", "Again.", retry=True)

    job = ran(declare, handler, max_attempts=2)
    assert job.log_lines == 700
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(1)
    (claimed,) = lifecycle.claim("default", uuid4())
    job = run_unguarded(claimed)
    assert (job.status, job.log_lines) == (Status.FAILED, MOST_LINES)
    lines = [event.data["log"] for event in log.history(job.pk, limit=2000) if event.type == "job.log"]
    assert len(lines) == MOST_LINES
    assert lines[-1] == {"level": "warning", "message": "The log is full; later lines are left out."}
    assert {len(line["message"]) for line in lines[:-1]} == {2000}
    assert [event.sequence for event in log.history(job.pk, limit=2000)] == list(range(1, job.sequence + 1))


@pytest.mark.django_db
def test_the_idempotency_token_is_the_same_at_each_attempt_and_no_other_jobs(declare: Declare) -> None:
    tokens: list[str] = []

    def handler(context: Context, _params: dict[str, Any]) -> None:
        tokens.append(context.idempotency_token)
        raise JobFailure("again", "Again.", retry=context.attempt < 2)

    job = ran(declare, handler, max_attempts=2)
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(1)
    run_unguarded(lifecycle.claim("default", uuid4())[0])
    ran(declare, handler)
    assert len(tokens) == 3
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../x", "/etc/passwd", "a\0b", "a\nb", "x" * 256, "\ud800"]
)
def test_an_artifact_has_a_plain_name(declare: Declare, name: str) -> None:
    job = ran(declare, lambda context, _params: context.attach(name, b"x"))
    assert (job.status, code_of(job)) == (Status.FAILED, "bad_artifact_name")
    assert not Artifact.objects.exists()


@pytest.mark.django_db
def test_artifacts_are_listed_of_the_attempt_that_completed(declare: Declare, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(b"from a path")

    def handler(context: Context, _params: dict[str, Any]) -> None:
        context.attach("bytes.bin", b"bytes")
        context.attach("text.html", "text", main=True)
        context.attach("ä €.txt", source)
        with source.open("rb") as stream:
            context.attach("stream", stream, "text/x-own")
        if context.attempt == 1:
            raise JobFailure("again", "Again.", retry=True)

    job = ran(declare, handler, max_attempts=2)
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(1)
    job = run_unguarded(lifecycle.claim("default", uuid4())[0])
    assert job.status == Status.COMPLETED
    listed = {each.name: each for each in log.finishing_artifacts(job)}
    assert {name: each.size for name, each in listed.items()} == {
        "bytes.bin": 5,
        "text.html": 4,
        "ä €.txt": 11,
        "stream": 11,
    }
    assert {each.attempt for each in listed.values()} == {2}
    assert listed["ä €.txt"].sha256 == listed["stream"].sha256
    assert listed["stream"].content_type == "text/x-own"


@pytest.mark.django_db
def test_a_name_is_attached_once(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        context.attach("a", b"1")
        context.attach("a", b"2")

    assert code_of(ran(declare, handler)) == "artifact_twice"


# --- The guard --------------------------------------------------------------------------------------------------------


@pytest.fixture
def watchman(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard of the test's own, which looks after what `runner.work` runs."""
    watching = Guard(Process(id=uuid4()))
    monkeypatch.setattr(runner, "guard", lambda: watching)
    watching.start()
    yield watching
    watching.close()


@contextmanager
def playing(job: Job, process: Process | None = None) -> Iterator[tuple[Guard, Hand, Context]]:
    """Give a hand with a job whose handler is thought to run, and a guard that looks when it is told to."""
    watching, hand = Guard(process or Process()), new_hand()
    with watching.watching(hand):
        yield watching, hand, hand.take_up(job).context


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("watchman")
def test_progress_and_lines_are_written_while_the_handler_runs(declare: Declare) -> None:
    may_end = threading.Event()

    def handler(context: Context, _params: dict[str, Any]) -> str:
        context.progress(10, "Begun")
        context.log("a line")
        assert may_end.wait(timeout=20)
        context.progress(90)
        return "done"

    job = new_job(kind=declare(handler), params={})
    thread = in_thread(lambda: runner.work("default"))
    wait_until(lambda: Job.objects.get(pk=job.pk).progress, 5)
    running = Job.objects.get(pk=job.pk)
    assert (running.status, percent_of(running), running.log_lines) == (Status.RUNNING, 10.0, 1)
    may_end.set()
    thread.join()
    done = Job.objects.get(pk=job.pk)
    assert (done.status, percent_of(done), done.progress and done.progress["message"]) == (
        Status.COMPLETED,
        90.0,
        "Begun",
    )
    assert [event.type for event in log.history(job.pk)] == ["job.accepted", "job.started", "job.log", "job.completed"]
    assert Worker.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("watchman")
def test_a_hundred_thousand_reports_are_few_writes(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[Beat] = []
    pushes: list[str] = []
    real = lifecycle.beat

    def counting(these: Sequence[Beat]) -> dict[UUID, Held]:
        beats.extend(these)
        return real(these)

    monkeypatch.setattr(lifecycle, "beat", counting)
    monkeypatch.setattr(wakeup, "tell_progress", pushes.extend)

    def handler(context: Context, _params: dict[str, Any]) -> None:
        for each in range(100_000):
            context.progress(current=each, total=100_000)

    job = new_job(kind=declare(handler), params={})
    begun = time.monotonic()
    assert runner.work("default") == 1
    seconds = time.monotonic() - begun
    assert len(beats) <= seconds / guard.WRITE_SECONDS + 2
    assert len(pushes) <= seconds / guard.PUSH_SECONDS + 2
    done = Job.objects.get(pk=job.pk)
    assert (done.status, percent_of(done)) == (Status.COMPLETED, 100.0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("watchman")
def test_a_handler_is_told_that_its_time_is_over(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            context.check_cancelled()
            time.sleep(0.01)

    job = new_job(kind=declare(handler), params={}, timeout_seconds=1, max_attempts=1)
    assert runner.work("default") == 1
    job.refresh_from_db()
    assert (job.status, code_of(job)) == (Status.FAILED, "timeout")


@pytest.mark.django_db(transaction=True)
def test_a_handler_is_told_that_its_job_is_cancelled(declare: Declare) -> None:
    job = claimed_job(kind=declare(lambda _context, _params: None), params={})
    with playing(job) as (watching, hand, context):
        lifecycle.cancel(job.pk)
        beat_now(hand)
        watching.look()
    calls = (context.check_cancelled, context.progress, lambda: context.log("x"), lambda: context.attach("a", b""))
    for call in calls:
        with pytest.raises(JobCancelled):
            call()


def beat_now(hand: Hand) -> None:
    assert hand.run
    hand.run.next_beat = 0.0


@pytest.mark.django_db(transaction=True)
def test_a_job_whose_cancelling_was_asked_for_ends_so(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        lifecycle.cancel(context.job_id)
        beat_now(hand)
        in_thread(watching.look).join()
        context.progress(1)

    job = claimed_job(kind=declare(handler), params={})
    watching, hand = Guard(Process()), new_hand()
    with watching.watching(hand):
        hand.play(job)
        hand.next(may_claim=False)
    assert Job.objects.get(pk=job.pk).status == Status.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_a_handler_whose_job_went_to_another_stops_and_writes_nothing(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> str:
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        lifecycle.rescue(1)
        context.log("a word of the dead")
        beat_now(hand)
        in_thread(watching.look).join()
        with pytest.raises(LeaseLost):
            context.check_cancelled()
        return "stale"

    job = claimed_job(kind=declare(handler), params={})
    watching, hand = Guard(Process()), new_hand()
    with watching.watching(hand):
        hand.play(job)
        hand.next(may_claim=False)
    job.refresh_from_db()
    assert (job.status, job.result, job.log_lines) == (Status.PENDING, None, 0)
    assert [event.type for event in log.history(job.pk)] == ["job.accepted", "job.started", "job.retrying"]


@pytest.mark.django_db(transaction=True)
def test_a_handler_that_does_not_stop_is_ended_by_force(declare: Declare) -> None:
    job = claimed_job(kind=declare(lambda _context, _params: None), params={}, max_attempts=1)
    process = Process()
    with playing(job, process) as (watching, hand, context):
        assert hand.run
        hand.run.deadline = 1.0
        watching.look()
        with pytest.raises(JobTimedOut):
            context.check_cancelled()
        assert Job.objects.get(pk=job.pk).status == Status.RUNNING
        hand.run.force_at = 1.0
        watching.look()
        assert not hand.has_more
    job.refresh_from_db()
    assert (job.status, code_of(job), process.leaked) == (Status.FAILED, "timeout", 1)
    assert lifecycle.finish([Outcome(job=job, result="late")]) == set()


@pytest.mark.django_db
def test_an_end_that_was_written_though_its_commit_seemed_to_fail_counts_as_ours(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = lifecycle.trade, []

    def breaking(*args: Any) -> Any:
        calls.append(args)
        traded = real(*args)
        if len(calls) == 1:
            raise OperationalError("the connection broke at COMMIT")
        return traded

    job = claimed_job(kind=declare(lambda _context, _params: 1), params={})
    hand = new_hand()
    hand.play(job)
    monkeypatch.setattr(lifecycle, "trade", breaking)
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's transaction is in it
    assert hand.next(may_claim=True) is None
    assert len(calls) == 3
    job.refresh_from_db()
    assert (job.status, job.result, job.sequence) == (Status.COMPLETED, 1, 3)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("watchman")
def test_one_bell_drains_the_queue(declare: Declare) -> None:
    owner, name = new_user(), declare(lambda _context, params: params)

    ids = [new_job(owner, kind=name, params={}).pk for _ in range(5)]
    assert runner.work("default") == 5
    assert runner.work("default") == 0
    assert set(Job.objects.filter(pk__in=ids).values_list("status", flat=True)) == {Status.COMPLETED}


@pytest.mark.django_db
def test_a_param_that_a_kind_got_later_has_its_default() -> None:
    job = new_job(params={"steps": 3})
    assert arguments(job, get_kind(job.kind)) == {"seconds": 5, "steps": 3, "failures": 0}
