"""One attempt: async handlers, what a handler asks for about the next one, and the params that it gets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.utils import timezone
from rest_framework import serializers

from jobs import kinds, lifecycle, log, runner
from jobs.context import Context
from jobs.failures import DoNotRetry, JobFailure, RetryAfter
from jobs.guard import Guard
from jobs.hand import Hand
from jobs.kinds import get_kind, kind
from jobs.lifecycle.transitions import LONGEST_BACKOFF_SECONDS, backoff_seconds
from jobs.log_context import JobFilter
from jobs.models import Artifact, Job, Status
from jobs.pace import Pace
from jobs.process import Process
from tests.factories import claimed_job, new_job, new_user
from tests.waiting import wait_until

Handler = Callable[[Context, dict[str, Any]], Any]
Declare = Callable[..., str]

pytestmark = pytest.mark.django_db


@pytest.fixture
def declare() -> Iterator[Declare]:
    """Give a function that makes a handler a kind for the time of the test, and gives the kind's name."""
    names: list[str] = []

    def make(handler: Handler, **options: Any) -> str:
        name = f"test.kind{len(names)}"
        names.append(name)
        kind(name, **options)(handler)
        return name

    yield make
    for name in names:
        del kinds._registry[name]


def run(job: Job) -> Job:
    """Run a claimed job to the end of its attempt and read it again."""
    hand = Hand("default", Process(), Pace(), threading.Event())
    hand.play(job)
    hand.next(may_claim=False)
    return Job.objects.get(pk=job.pk)


def ran(name: str, **values: Any) -> Job:
    return run(claimed_job(kind=name, **{"params": {}, **values}))


def run_again(job: Job) -> Job:
    """Let the time of a job's next attempt come, and run it."""
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    assert lifecycle.promote(10) == {"default": 1}
    (claimed,) = lifecycle.claim("default", uuid4())
    return run(claimed)


def code_of(job: Job) -> str | None:
    return job.error["code"] if job.error else None


def pause_of(job: Job) -> float:
    """Say how many seconds after the last event the next attempt may begin."""
    assert job.run_at is not None
    return (job.run_at - log.history(job.pk)[-1].at).total_seconds()


# --- Async handlers --------------------------------------------------------------------------------------------------


def test_an_async_handler_runs_and_its_result_is_kept(declare: Declare) -> None:
    async def handler(context: Context, _params: dict[str, Any]) -> dict[str, int]:
        context.log("before")
        await asyncio.sleep(0)
        context.progress(50, "half")
        first, second = await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))
        context.log("after")
        return {"sum": first + second, "attempt": context.attempt}

    job = ran(declare(handler))
    assert (job.status, job.result, job.error) == (Status.COMPLETED, {"sum": 3, "attempt": 1}, None)
    assert job.progress is not None
    assert job.progress["percent"] == 50.0
    assert [event.type for event in log.history(job.pk)] == [
        "job.accepted",
        "job.started",
        "job.log",
        "job.log",
        "job.completed",
    ]


def test_an_async_handler_uses_the_database_as_a_plain_one_does(declare: Declare) -> None:
    """Inside this test's own transaction, so that another connection would see nothing."""

    @sync_to_async
    def names() -> list[str]:
        return sorted(get_user_model().objects.values_list("username", flat=True))

    async def handler(context: Context, _params: dict[str, Any]) -> list[str]:
        job = await Job.objects.aget(pk=context.job_id)
        assert job.status == Status.RUNNING
        await get_user_model().objects.acreate(username="made inside")
        found = [user.username async for user in get_user_model().objects.order_by("username")]
        assert found == await names()
        await sync_to_async(context.attach)("names.txt", "\n".join(found))
        return found

    owner = new_user()
    job = ran(declare(handler), owner=owner)
    assert (job.status, job.result) == (Status.COMPLETED, sorted(["made inside", owner.username]))
    assert Artifact.objects.get().name == "names.txt"


@pytest.mark.django_db(transaction=True)
def test_an_async_handler_leaves_no_transaction_open(declare: Declare) -> None:
    @sync_to_async
    def begin() -> None:
        transaction.atomic().__enter__()
        new_user(email="inside@example.org")

    async def handler(_context: Context, _params: dict[str, Any]) -> str:
        await begin()
        return "done"

    job = ran(declare(handler))
    assert (job.status, job.result) == (Status.COMPLETED, "done")
    assert not get_user_model().objects.filter(email="inside@example.org").exists()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ValueError("plain"), Status.PENDING, "handler_failed"),
        (asyncio.CancelledError(), Status.PENDING, "handler_failed"),
        (TimeoutError(), Status.PENDING, "handler_failed"),
        (SystemExit(1), Status.PENDING, "handler_failed"),
        (JobFailure("no_file", "There is no file."), Status.FAILED, "no_file"),
        (DoNotRetry("It is hopeless."), Status.FAILED, "handler_failed"),
        (RetryAfter(5), Status.PENDING, "retry_later"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_an_async_handler_raises_ends_its_attempt(
    declare: Declare, fault: BaseException, status: str, code: str
) -> None:
    async def handler(_context: Context, _params: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        raise fault

    job = ran(declare(handler), max_attempts=2)
    assert (job.status, code_of(job), job.attempt) == (status, code, 1)


def test_what_a_task_of_an_async_handler_raises_ends_its_attempt(declare: Declare) -> None:
    async def fail() -> None:
        raise ValueError("inside a task")

    async def handler(_context: Context, _params: dict[str, Any]) -> None:
        await asyncio.gather(fail(), asyncio.sleep(60))

    begun = time.monotonic()
    job = ran(declare(handler), max_attempts=1)
    assert (job.status, code_of(job)) == (Status.FAILED, "handler_failed")
    assert time.monotonic() - begun < 10


def test_a_result_of_an_async_handler_that_is_no_json_fails_it(declare: Declare) -> None:
    async def handler(_context: Context, _params: dict[str, Any]) -> object:
        return object()

    assert code_of(ran(declare(handler), max_attempts=1)) == "result_invalid"


def test_async_handlers_run_one_after_the_other_in_one_thread(declare: Declare) -> None:
    threads: list[int] = []

    async def handler(_context: Context, _params: dict[str, Any]) -> None:
        threads.append(await sync_to_async(threading.get_ident)())

    name, owner = declare(handler), new_user()
    for _ in range(3):
        assert ran(name, owner=owner).status == Status.COMPLETED
    assert set(threads) == {threading.get_ident()}


def test_log_lines_name_the_job_also_from_async_and_its_threads(
    declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    own = logging.getLogger("shop")

    async def handler(_context: Context, _params: dict[str, Any]) -> None:
        own.warning("one")
        await sync_to_async(own.warning)("two")
        await asyncio.to_thread(own.warning, "three")

    caplog.handler.addFilter(job_filter := JobFilter())
    try:
        job = ran(declare(handler))
        own.warning("four")
    finally:
        caplog.handler.removeFilter(job_filter)
    named = {record.message: vars(record)["job"] for record in caplog.records if record.name == "shop"}
    own_name = f" [{job.kind} {job.pk}]"
    assert named == {"one": own_name, "two": own_name, "three": own_name, "four": ""}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("why", ["cancelled", "timed out"])
def test_an_async_handler_is_told_to_stop(declare: Declare, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    async def handler(context: Context, _params: dict[str, Any]) -> str:
        context.log("begun")
        for _ in range(2000):
            await asyncio.sleep(0.01)
            context.check_cancelled()
        return "never stopped"

    watchman = Guard(Process(id=uuid4()))
    monkeypatch.setattr(runner, "guard", lambda: watchman)
    monkeypatch.setattr("jobs.hand.BEAT_SECONDS", 0.1)
    monkeypatch.setattr("jobs.guard.BEAT_SECONDS", 0.1)
    job = new_job(kind=declare(handler), params={}, max_attempts=1, timeout_seconds=60 if why == "cancelled" else 1)

    def work() -> None:
        try:
            runner.work("default")
        finally:
            connection.close()

    watchman.start()
    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: Job.objects.get(pk=job.pk).log_lines, 5)
        if why == "cancelled":
            lifecycle.cancel(job.pk)
        worker.join(timeout=15)
        assert not worker.is_alive()
    finally:
        worker.join()
        watchman.close()
    job.refresh_from_db()
    if why == "cancelled":
        assert (job.status, code_of(job)) == (Status.CANCELLED, None)
    else:
        assert (job.status, code_of(job)) == (Status.FAILED, "timeout")


# --- What a handler asks for about the next attempt ------------------------------------------------------------------


def test_do_not_retry_ends_the_job_however_many_attempts_are_left(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise DoNotRetry("The file is empty.", code="empty_file")

    job = ran(declare(handler), max_attempts=10)
    assert (job.status, job.attempt, job.failures) == (Status.FAILED, 1, 1)
    assert job.error == {"code": "empty_file", "message": "The file is empty.", "attempt": 1}


@pytest.mark.parametrize("seconds", [0, 0.5, 90, 24 * 3600, RetryAfter.LONGEST_SECONDS])
def test_retry_after_is_honoured_to_the_second(declare: Declare, seconds: float) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> str:
        if context.attempt == 1:
            raise RetryAfter(seconds, "The other side is busy.", code="busy")
        return "done"

    job = ran(declare(handler), max_attempts=2)
    assert (job.status, job.failures, code_of(job)) == (Status.PENDING, 1, "busy")
    assert pause_of(job) == pytest.approx(seconds, abs=0.2)
    assert lifecycle.claim("default", uuid4()) == []
    done = run_again(job)
    assert (done.status, done.result, done.attempt, done.error) == (Status.COMPLETED, "done", 2, None)


def test_a_pause_that_is_over_is_promoted_and_one_that_is_not_is_left(declare: Declare) -> None:
    def handler(_context: Context, params: dict[str, Any]) -> None:
        raise RetryAfter(params["seconds"])

    class Params(serializers.Serializer[Any]):
        seconds = serializers.FloatField()

    name, owner = declare(handler, params=Params), new_user()
    long, none = (ran(name, owner=owner, params={"seconds": seconds}) for seconds in (60, 0))
    assert lifecycle.promote(10) == {"default": 1}
    (again,) = lifecycle.claim("default", uuid4())
    assert again.pk == none.pk
    assert Job.objects.get(pk=long.pk).ready_at is None


def test_retry_after_at_the_last_attempt_fails_the_job(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise RetryAfter(1, "Busy.", code="busy")

    job = ran(declare(handler), max_attempts=2)
    job = run_again(job)
    assert (job.status, code_of(job), job.attempt) == (Status.FAILED, "busy", 2)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_retry_after_refuses_what_is_no_pause(declare: Declare, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        RetryAfter(seconds)

    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise RetryAfter(seconds)

    assert code_of(ran(declare(handler), max_attempts=1)) == "handler_failed"


def test_a_failure_may_ask_for_a_pause_of_its_own(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise JobFailure("busy", "Busy.", retry=True, retry_after=77)

    assert pause_of(ran(declare(handler), max_attempts=2)) == pytest.approx(77, abs=0.2)


def test_pauses_grow_with_each_failure_and_are_spread(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise ValueError

    job, pauses = ran(declare(handler), max_attempts=6), []
    for _ in range(4):
        pauses.append(pause_of(job))
        job = run_again(job)
    pauses.append(pause_of(job))
    for number, pause in enumerate(pauses, start=1):
        assert 2**number * 0.8 - 0.2 <= pause <= 2**number * 1.2 + 0.2
    assert run_again(job).status == Status.FAILED


def test_the_jitter_of_pauses_spreads_a_crowd_and_no_pause_is_endless() -> None:
    crowd = [backoff_seconds(3) for _ in range(200)]
    assert min(crowd) < 8 * 0.9
    assert max(crowd) > 8 * 1.1
    assert all(backoff_seconds(failures) <= LONGEST_BACKOFF_SECONDS * 1.2 for failures in (9, 10, 100, 1000))


def test_a_pause_that_a_handler_asked_for_does_not_change_those_that_follow(declare: Declare) -> None:
    def handler(context: Context, _params: dict[str, Any]) -> None:
        raise RetryAfter(1) if context.attempt == 1 else ValueError

    job = run_again(ran(declare(handler), max_attempts=5))
    assert 4 * 0.8 - 0.2 <= pause_of(job) <= 4 * 1.2 + 0.2


def test_a_retry_is_told_with_its_time_and_reason(declare: Declare) -> None:
    def handler(_context: Context, _params: dict[str, Any]) -> None:
        raise RetryAfter(30, "Busy.", code="busy")

    job = ran(declare(handler), max_attempts=2)
    event = log.history(job.pk)[-1]
    assert event.type == "job.retrying"
    assert event.data["error"] == {"code": "busy", "message": "Busy.", "attempt": 1}
    assert event.data["status"] == Status.PENDING
    assert job.run_at is not None
    assert event.data["runAt"] == job.run_at.isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- Params ----------------------------------------------------------------------------------------------------------


def seen_params(declare: Declare, serializer: type[serializers.Serializer[Any]], stored: dict[str, Any]) -> Any:
    """Give what a handler gets of a job whose row holds these params."""
    seen: list[dict[str, Any]] = []
    name = declare(lambda _context, params: seen.append(params), params=serializer, max_attempts=1)
    job = claimed_job(kind=name, params=stored)
    run(job)
    return seen[0] if seen else code_of(Job.objects.get(pk=job.pk))


def test_a_param_that_was_left_out_has_its_default(declare: Declare) -> None:
    class Params(serializers.Serializer[Any]):
        count = serializers.IntegerField(default=3)
        names = serializers.ListField(child=serializers.CharField(), default=list)
        given = serializers.CharField()
        optional = serializers.CharField(required=False)

    assert seen_params(declare, Params, {"given": "x"}) == {"count": 3, "names": [], "given": "x"}
    assert seen_params(declare, Params, {"given": "x", "count": 0, "names": ["a"], "optional": ""}) != {}


def test_a_null_is_no_default(declare: Declare) -> None:
    class Params(serializers.Serializer[Any]):
        count = serializers.IntegerField(default=3, allow_null=True)

    assert seen_params(declare, Params, {"count": None}) == {"count": None}


def test_params_have_the_types_of_their_fields(declare: Declare) -> None:
    class Inner(serializers.Serializer[Any]):
        at = serializers.DateTimeField()
        weight = serializers.DecimalField(max_digits=5, decimal_places=2, default=Decimal("1.50"))

    class Params(serializers.Serializer[Any]):
        day = serializers.DateField()
        inner = Inner()

    seen = seen_params(declare, Params, {"day": "2026-01-02", "inner": {"at": "2026-01-02T03:04:05Z", "weight": "2"}})
    assert seen["day"].isoformat() == "2026-01-02"
    assert seen["inner"]["at"].tzinfo is not None
    assert str(seen["inner"]["weight"]) == "2.00"


def test_a_nested_param_that_a_kind_got_later_has_its_default(declare: Declare) -> None:
    class Inner(serializers.Serializer[Any]):
        given = serializers.CharField(required=False)
        depth = serializers.IntegerField(default=7)

    class Params(serializers.Serializer[Any]):
        inner = Inner()

    assert seen_params(declare, Params, {"inner": {"given": "x"}}) == {"inner": {"given": "x", "depth": 7}}


def test_a_handler_that_changes_its_params_changes_no_other_jobs(declare: Declare) -> None:
    class Params(serializers.Serializer[Any]):
        names = serializers.ListField(child=serializers.CharField(), default=[])
        limits = serializers.DictField(default={})

    seen: list[tuple[list[str], dict[str, Any]]] = []

    def handler(_context: Context, params: dict[str, Any]) -> None:
        seen.append((list(params["names"]), dict(params["limits"])))
        params["names"].append("mine")
        params["limits"]["mine"] = 1

    name, owner = declare(handler, params=Params), new_user()
    for _ in range(2):
        ran(name, owner=owner)
    assert seen == [([], {}), ([], {})]


def test_params_that_a_kind_would_refuse_by_now_fail_the_attempt(declare: Declare) -> None:
    class Params(serializers.Serializer[Any]):
        count = serializers.IntegerField(max_value=10)

    assert seen_params(declare, Params, {"count": 11}) == "handler_failed"


def test_a_kind_that_is_gone_is_left_to_workers_that_know_it(declare: Declare) -> None:
    name = declare(lambda _context, _params: None)
    job = new_job(kind=name, params={})
    standing = kinds._registry.pop(name)
    try:
        assert lifecycle.claim("default", uuid4()) == []
    finally:
        kinds._registry[name] = standing
    assert get_kind(name)
    assert [each.pk for each in lifecycle.claim("default", uuid4())] == [job.pk]
