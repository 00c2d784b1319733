"""Celery tasks that run as jobs, and go on as tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, Optional
from uuid import UUID

import pytest
from celery import Task, current_app, current_task, shared_task, states
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from rest_framework import serializers

from jobs import kinds, lifecycle
from jobs.adoption import adopt
from jobs.api.checks import check_params
from jobs.api.params_schema import params_schema
from jobs.attempt import attempt
from jobs.context import Context
from jobs.failures import JobCancelled, JobFailure, JobTimedOut
from jobs.hand import Hand
from jobs.kinds import Kind, get_kind
from jobs.lifecycle import Outcome
from jobs.models import Job, new_id
from jobs.pace import Pace
from jobs.process import Process
from tests.factories import claimed_job

NAME = "test.adopted"
Adopt = Callable[..., Kind]


@pytest.fixture
def adopted() -> Iterator[Adopt]:
    """Give a function that makes a shared task of a function and adopts it, for the time of the test."""
    names: list[str] = []

    def make(function: Callable[..., Any], /, **task_options: Any) -> Kind:
        adopt_options = task_options.pop("adopt", {})
        declare: Callable[..., Task[..., Any]] = shared_task(name=f"{NAME}.{new_id()}", **task_options)
        task = declare(function)
        names.append(task.name)
        adopt(NAME, **adopt_options)(task)
        return get_kind(NAME)

    yield make
    for name in names:
        current_app.tasks.unregister(name)
    kinds._registry.pop(NAME, None)


class Heard(Context):
    """A context that keeps all that it was told."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.told: list[dict[str, Any]] = []

    def progress(self, *args: Any, **kwargs: Any) -> None:
        super().progress(*args, **kwargs)
        assert self.latest_progress is not None
        self.told.append(self.latest_progress)


def ran(kind: Kind, number: int = 1, context: Heard | None = None, **params: Any) -> tuple[Outcome, Heard]:
    """Run one attempt of an adopted task as a worker does, without its row."""
    job = Job(kind=kind.name, params=params, attempt=number, max_attempts=kind.max_attempts, timeout_seconds=60)
    context = context or Heard(job)
    outcome = attempt(context._job, context)
    assert outcome is not None
    return outcome, context


def code_of(outcome: Outcome) -> str | None:
    return outcome.error["code"] if outcome.error else None


# --- What comes of a task ---------------------------------------------------------------------------------------------


def test_a_task_gets_the_params_by_name_and_what_it_returns_is_the_result(adopted: Adopt) -> None:
    def build(year: int, *, region: str = "all") -> dict[str, Any]:
        """Build a report."""
        return {"year": year, "region": region}

    kind = adopted(build)
    outcome, _ = ran(kind, year=2026)
    assert (outcome.result, outcome.error) == ({"year": 2026, "region": "all"}, None)
    assert kind.description == "Build a report."


def test_a_bound_task_knows_its_job_and_how_often_it_was_tried(adopted: Adopt) -> None:
    def look(self: Task[..., Any]) -> list[Any]:
        assert current_task.request.id == self.request.id
        return [self.request.id, self.request.retries, self.request.called_directly]

    outcome, context = ran(adopted(look, bind=True), number=3)
    assert outcome.result == [str(context.job_id), 2, False]


@pytest.mark.parametrize(
    ("meta", "progress"),
    [
        ({"current": 3, "total": 4}, (75.0, None, 3, 4)),
        ({"current": 3, "total": 4, "description": "Drawing"}, (75.0, "Drawing", 3, 4)),
        # As celery-progress' ProgressRecorder writes it.
        ({"pending": False, "current": 1, "total": 3, "percent": 33.33, "description": ""}, (33.3, None, 1, 3)),
        ({"pending": False, "current": 5, "total": 0, "percent": 0, "description": "?"}, (0.0, "?", 5, 0)),
        ({"percent": Decimal("12.5"), "message": "Half of a quarter"}, (12.5, "Half of a quarter", None, None)),
        ({"current": "three", "total": True, "status": "Counting"}, (None, "Counting", None, None)),
    ],
)
def test_update_state_becomes_progress(adopted: Adopt, meta: Any, progress: tuple[Any, ...]) -> None:
    def work(self: Task[..., Any]) -> None:
        self.update_state(state="PROGRESS", meta=meta)

    _, context = ran(adopted(work, bind=True))
    assert [tuple(each.values()) for each in context.told] == [progress]


@pytest.mark.parametrize("meta", [None, "text", {}, {"current": None}, ["current"]])
def test_a_state_that_says_nothing_of_progress_leaves_it_as_it_is(adopted: Adopt, meta: Any) -> None:
    def work(self: Task[..., Any]) -> str:
        self.update_state(state="DOWNLOADING", meta=meta)
        return "done"

    outcome, context = ran(adopted(work, bind=True))
    assert (outcome.result, context.told) == ("done", [])


def test_a_task_that_is_not_bound_and_its_threads_are_heard(adopted: Adopt) -> None:
    def work() -> None:
        current_task.update_state(state="PROGRESS", meta={"current": 1, "total": 2})
        tell = partial(current_task.update_state, current_task.request.id, "PROGRESS", {"current": 2, "total": 2})
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()

    _, context = ran(adopted(work))
    assert [each["percent"] for each in context.told] == [50.0, 100.0]


# --- Retries and failures ---------------------------------------------------------------------------------------------


def test_an_exception_fails_the_job_for_good_as_it_does_a_task(adopted: Adopt) -> None:
    def work() -> None:
        raise KeyError("secret")

    outcome, _ = ran(adopted(work, max_retries=5))
    assert (code_of(outcome), outcome.retry) == ("handler_failed", False)
    assert "KeyError" in outcome.error["message"]  # type: ignore[index]
    assert "secret" not in outcome.error["message"]  # type: ignore[index]
    assert "secret" in outcome.traceback


def test_what_a_task_says_to_kabar_stays_as_it_is(adopted: Adopt) -> None:
    def work() -> None:
        raise JobFailure("no_data", "There is no data of this year.", retry=True)

    outcome, _ = ran(adopted(work))
    assert (outcome.error, outcome.retry) == (
        {"code": "no_data", "message": "There is no data of this year."},
        True,
    )


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"countdown": 7}, 7.0),
        ({"countdown": 0}, 0.0),
        ({"countdown": -7}, 0.0),
        ({}, 180.0),
        ({"countdown": 10**12}, 365 * 24 * 3600.0),
        ({"eta": datetime(2020, 1, 1, tzinfo=UTC)}, 0.0),
        ({"kwargs": {"year": 2026}, "countdown": 1}, 1.0),
        ({"args": [2026], "countdown": 1}, 1.0),
    ],
)
def test_retry_asks_for_another_attempt(adopted: Adopt, options: dict[str, Any], seconds: float) -> None:
    def work(self: Task[..., Any], year: int) -> None:
        raise self.retry(**options)

    outcome, _ = ran(adopted(work, bind=True), year=2026)
    assert (code_of(outcome), outcome.retry, outcome.retry_after) == ("retry_later", True, seconds)


def test_retry_at_a_time_asks_for_the_seconds_until_then(adopted: Adopt) -> None:
    def work(self: Task[..., Any]) -> None:
        raise self.retry(eta=timezone.now() + timedelta(minutes=5))

    outcome, _ = ran(adopted(work, bind=True))
    assert outcome.retry_after is not None
    assert 290 < outcome.retry_after <= 300


def test_a_bare_retry_waits_as_long_as_the_task_says(adopted: Adopt) -> None:
    def work() -> None:
        raise Retry("later")

    outcome, _ = ran(adopted(work, default_retry_delay=9))
    assert outcome.retry_after == 9.0


def test_the_last_retry_fails_the_job_with_its_reason(adopted: Adopt) -> None:
    def work(self: Task[..., Any]) -> None:
        raise self.retry(exc=ConnectionError("away"), countdown=1)

    kind = adopted(work, bind=True, max_retries=2)
    assert kind.max_attempts == 3
    assert [ran(kind, number)[0].retry for number in (1, 2, 3)] == [True, True, False]
    assert "ConnectionError" in ran(kind, 1)[0].error["message"]  # type: ignore[index]
    assert code_of(ran(kind, 3)[0]) == "handler_failed"


def test_autoretry_is_followed_with_its_growing_pause(adopted: Adopt) -> None:
    def work() -> None:
        raise ConnectionError("away")

    kind = adopted(work, autoretry_for=(ConnectionError,), retry_backoff=2, retry_jitter=False, max_retries=2)
    outcomes = [ran(kind, number)[0] for number in (1, 2, 3)]
    assert [each.retry_after for each in outcomes] == [2.0, 4.0, None]
    assert [each.retry for each in outcomes] == [True, True, False]


def test_a_retry_with_other_arguments_is_refused_in_words(adopted: Adopt) -> None:
    def work(self: Task[..., Any], year: int) -> None:
        raise self.retry(kwargs={"year": year + 1})

    outcome, _ = ran(adopted(work, bind=True), year=2026)
    assert (code_of(outcome), outcome.retry) == ("other_arguments", False)


@pytest.mark.parametrize("requeue", [False, True])
def test_a_rejected_job_fails_and_is_tried_again_if_it_was_to_be_queued_again(adopted: Adopt, requeue: bool) -> None:
    def work() -> None:
        raise Reject("full", requeue=requeue)

    outcome, _ = ran(adopted(work))
    assert (code_of(outcome), outcome.retry) == ("task_rejected", requeue)


def test_an_ignored_job_ends_as_the_task_left_itself(adopted: Adopt) -> None:
    def work(self: Task[..., Any], state: str) -> None:
        if state:
            self.update_state(state=state, meta={"exc_type": "X", "exc_message": "There is no such region."})
        raise Ignore

    kind = adopted(work, bind=True)
    assert ran(kind, state="")[0].is_cancelled
    assert ran(kind, state="PROGRESS")[0].is_cancelled
    failed = ran(kind, state=states.FAILURE)[0]
    assert (failed.error, failed.retry) == ({"code": "task_failed", "message": "There is no such region."}, False)
    assert ran(kind, state=states.SUCCESS)[0].result == {"exc_type": "X", "exc_message": "There is no such region."}


def test_the_hooks_of_a_task_are_called(adopted: Adopt) -> None:
    called: list[str] = []

    class Hooked(Task[..., Any]):
        abstract = True

        def before_start(self, *_: Any) -> None:
            called.append("before_start")

        def on_success(self, *_: Any) -> None:
            called.append("on_success")

        def on_retry(self, *_: Any) -> None:
            called.append("on_retry")

        def on_failure(self, *_: Any) -> None:
            called.append("on_failure")

    def work(self: Task[..., Any], end: str) -> None:
        if end == "retry":
            raise self.retry()
        if end == "failure":
            raise ValueError

    kind = adopted(work, bind=True, base=Hooked)
    for end in ("success", "retry", "failure"):
        ran(kind, end=end)
    assert called == ["before_start", "on_success", "before_start", "on_retry", "before_start", "on_failure"]


# --- Being stopped ----------------------------------------------------------------------------------------------------


def stopped(kind: Kind, reason: Exception) -> tuple[Outcome, Heard]:
    context = Heard(Job(kind=kind.name, params={}, attempt=1, max_attempts=3, timeout_seconds=60))
    context.stop(reason)  # type: ignore[arg-type]
    return ran(kind, context=context)


@pytest.mark.parametrize("options", [{}, {"autoretry_for": (Exception,)}])
def test_a_cancelled_job_stops_at_the_next_state_whatever_the_task_catches(
    adopted: Adopt, options: dict[str, Any]
) -> None:
    def work(self: Task[..., Any]) -> None:
        try:
            self.update_state(state="PROGRESS", meta={"current": 1, "total": 2})
        except Exception as error:
            raise RuntimeError("broken off") from error

    outcome, context = stopped(adopted(work, bind=True, **options), JobCancelled("cancelled"))
    assert (outcome.is_cancelled, outcome.error, context.told) == (True, None, [])


def test_a_task_that_is_late_can_clean_up_as_it_did_in_celery(adopted: Adopt) -> None:
    cleaned: list[bool] = []

    def work(self: Task[..., Any]) -> None:
        try:
            self.update_state(state="STEP")
        except SoftTimeLimitExceeded:
            cleaned.append(True)
            raise

    outcome, _ = stopped(adopted(work, bind=True), JobTimedOut("late"))
    assert (code_of(outcome), outcome.retry, cleaned) == ("timeout", True, [True])


# --- The kind ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_limits_and_queue_come_from_the_task_unless_the_decorator_says_otherwise(adopted: Adopt) -> None:
    def work() -> None:
        """Work."""

    kind = adopted(work, max_retries=7, time_limit=90, soft_time_limit=60.5, queue="slow")
    assert (kind.max_attempts, kind.timeout_seconds, kind.queue) == (8, 61, "slow")
    kind = adopted(work, max_retries=None, time_limit=90)
    assert (kind.max_attempts, kind.timeout_seconds, kind.queue) == (100, 90, "default")
    chosen = {"max_attempts": 1, "timeout": 5, "queue": "quick", "title": "A title", "description": "Words"}
    kind = adopted(work, max_retries=7, time_limit=90, queue="slow", adopt=chosen)
    assert (kind.max_attempts, kind.timeout_seconds, kind.queue) == (1, 5, "quick")
    assert (kind.title, kind.description) == ("A title", "Words")


def test_params_are_made_of_annotations_and_defaults(adopted: Adopt) -> None:
    def work(
        text: str,
        number: int,
        share: float,
        flag: bool,
        day: date,
        moment: datetime,
        key: UUID,
        price: Decimal,
        names: list[str],
        rows: list[dict[str, int]],
        anything: Any,
        plain: dict,  # type: ignore[type-arg]
        maybe: int | None,
        old: Optional[str] = None,  # noqa: UP045 - as tasks have it that are to be adopted
        older: str = None,  # type: ignore[assignment]  # noqa: RUF013
        region: Literal["north", "south"] = "north",
        places: Literal["a", None] = None,
        sizes: list[int] = [1, 2],  # noqa: B006
    ) -> None:
        """Take all sorts."""

    schema = params_schema(adopted(work).params())
    types = {name: each.get("type") for name, each in schema["properties"].items()}
    assert types == {
        "text": "string",
        "number": "integer",
        "share": "number",
        "flag": "boolean",
        "day": "string",
        "moment": "string",
        "key": "string",
        "price": "string",
        "names": "array",
        "rows": "array",
        "anything": None,
        "plain": "object",
        "maybe": ["integer", "null"],
        "old": ["string", "null"],
        "older": ["string", "null"],
        "region": "string",
        "places": ["string", "null"],
        "sizes": "array",
    }
    assert schema["required"] == list(types)[:13]
    assert schema["properties"]["region"]["enum"] == ["north", "south"]
    assert schema["properties"]["region"]["default"] == "north"
    assert schema["properties"]["sizes"]["default"] == [1, 2]


def test_a_task_gets_its_params_in_the_types_that_it_names(adopted: Adopt) -> None:
    def work(day: date, key: UUID, price: Decimal, text: str, since: datetime | None = None) -> list[str]:
        return [type(each).__name__ for each in (day, key, price, text, since)]

    kind = adopted(work)
    given = {"day": "2026-11-24", "key": str(new_id()), "price": "1.50", "text": "  kept  "}
    params, _ = check_params(kind.name, given, {})
    assert params["text"] == "  kept  "
    outcome, _ = ran(kind, **params)
    assert outcome.result == ["date", "UUID", "Decimal", "str", "NoneType"]


class Made:
    pass


def no_annotation(year) -> None:  # type: ignore[no-untyped-def]
    """Say nothing of it."""


def unknown_type(made: Made) -> None:
    """Take what no JSON is."""


def numbered(choice: Literal[1, 2]) -> None:
    """Take one of two numbers."""


def several(value: int | str) -> None:
    """Take this or that."""


def any_number(*years: int) -> None:
    """Take as many as there are."""


def no_json(made: Any = object()) -> None:  # noqa: B008
    """Have a default that is no JSON."""


def unknown_name(made: Unheard) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Name what there isn't."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_annotation, "'year' has no annotation"),
        (unknown_type, "'made' is annotated with"),
        (numbered, "'choice' is annotated with"),
        (several, "'value' is annotated with"),
        (any_number, "'years' can't be given by its name"),
        (no_json, "'made' has a default that isn't JSON"),
        (unknown_name, "annotations can't be read"),
    ],
)
def test_what_no_param_can_be_made_of_is_said_at_the_start(
    adopted: Adopt, function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as refused:
        adopted(function)
    assert NAME in str(refused.value)


class YearParams(serializers.Serializer[Any]):
    year = serializers.IntegerField(min_value=2000)


def test_params_of_ones_own_take_the_place_of_what_no_annotation_says(adopted: Adopt) -> None:
    kind = adopted(no_annotation, adopt={"params": YearParams})
    assert kind.params is YearParams
    assert ran(kind, year=2026)[0].error is None


def test_params_that_the_function_does_not_take_are_refused_at_the_start(adopted: Adopt) -> None:
    def work(month: int) -> None:
        """Take another thing."""

    with pytest.raises(ImproperlyConfigured, match="can't be called with year"):
        adopted(work, adopt={"params": YearParams})


def test_the_decorator_below_shared_task_is_told_where_it_belongs() -> None:
    with pytest.raises(ImproperlyConfigured, match="above @shared_task"):
        adopt(NAME)(no_annotation)  # type: ignore[type-var]


# --- Both ways --------------------------------------------------------------------------------------------------------


def test_an_adopted_task_goes_on_as_a_task(adopted: Adopt, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Any] = []

    def work(self: Task[..., Any], year: int) -> int:
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 2})
        return year

    task = current_app.tasks[adopted(work, bind=True).handler.__name__]
    monkeypatch.setattr(task.backend, "store_result", lambda *said, **_: stored.append(said[1:]))
    assert task.apply(kwargs={"year": 2026}).get() == 2026
    assert stored == [({"current": 1, "total": 2}, "PROGRESS")]
    assert task(2027) == 2027


def played(job: Job) -> Job:
    """Run a claimed job as a worker does, without a guard, and read it again."""
    hand = Hand("default", Process(), Pace(), threading.Event())
    hand.play(job)
    hand.next(may_claim=False)
    return Job.objects.get(pk=job.pk)


@pytest.mark.django_db
def test_an_adopted_task_runs_as_a_job_to_its_end(adopted: Adopt) -> None:
    def work_on(self: Task[..., Any], year: int) -> int:
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 1, "description": "Adding"})
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return year + self.request.retries

    kind = adopted(work_on, bind=True)
    job = played(claimed_job(kind=kind.name, params={"year": 2026}))
    assert (job.status, job.error and job.error["code"]) == ("PENDING", "retry_later")
    Job.objects.update(ready_at=timezone.now())
    (again,) = lifecycle.claim("default", new_id())
    job = played(again)
    assert (job.status, job.result, job.attempt, job.error) == ("COMPLETED", 2027, 2, None)
    assert job.progress == {"percent": 100.0, "message": "Adding", "current": 1, "total": 1}
