"""Celery tasks as kinds: what a task tells Celery while it runs as a job, its job hears.

    @adopt("reports.build")
    @shared_task(bind=True, max_retries=5)
    def build_report(self, year: int, region: Literal["north", "south"] = "north"):
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 12})

The task stays what it was: `.delay()` sends it past Kabar as before, and it need not know which way it came.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from numbers import Real
from typing import Any, TypedDict, TypeVar, Unpack

from celery import Task, states
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.time import maybe_make_aware
from django.core.exceptions import ImproperlyConfigured
from rest_framework.serializers import Serializer

from jobs.context import Context
from jobs.derived_params import check_fit, params_of
from jobs.failures import DoNotRetry, JobCancelled, JobFailure, JobsError, JobTimedOut, RetryAfter
from jobs.kinds import kind

MOST_ATTEMPTS = 100
"""Of a task that is to be tried for ever: as many as a submission may ask for."""

TaskT = TypeVar("TaskT", bound="Task[..., Any]")


class KindOptions(TypedDict, total=False):
    """What `kind` takes besides the name and the params; of what is left out, the task says what it can."""

    title: str
    description: str
    timeout: int
    max_attempts: int
    queue: str
    retention: timedelta | None
    max_running: int | None
    max_running_per_user: int | None


class TaskTimedOut(JobTimedOut, SoftTimeLimitExceeded):
    """Raised by `update_state` when the attempt's time is over: what tasks catch to clean up, and what Kabar knows."""


def adopt(
    name: str, *, params: type[Serializer[Any]] | None = None, **options: Unpack[KindOptions]
) -> Callable[[TaskT], TaskT]:
    """Declare a Celery task as a kind of jobs; goes above `@shared_task`, or is called with a task from elsewhere.

    A job calls the task as a worker of Celery does, hooks and signals included. `update_state` becomes progress,
    `retry` another attempt, the return value the result. What the task raises fails the job for good, as in Celery.

    Args:
        name: the kind's: dotted lower-case words, such as `reports.build`.
        params: a DRF serializer; made of the annotations of the task's function if left out.
        options: those of `kind`. What is left out comes from the task: `timeout` from `soft_time_limit` or else
            `time_limit`, `max_attempts` from `max_retries`, the queue from its own, the description from its docstring.

    Raises:
        ImproperlyConfigured: this is no task, or params can't be made of its function, or don't fit it.
    """

    def declare(task: TaskT) -> TaskT:
        if not isinstance(task, Task):
            raise ImproperlyConfigured(
                f"The kind {name!r}: {task!r} is no Celery task. Put @adopt above @shared_task, not below it."
            )
        real: Task[..., Any] = task.app.tasks[task.name]  # `shared_task` gives a proxy
        fitting = params or params_of(name, real.run)
        check_fit(name, real.run, fitting)
        _overhear(real)

        def handler(context: Context, values: dict[str, Any]) -> Any:
            return _play(real, context, values)

        handler.__name__, handler.__module__ = real.name, real.__module__
        chosen: KindOptions = {**_options_of(real), **options}
        kind(name, params=fitting, **chosen)(handler)
        return task

    return declare


def _options_of(task: Task[..., Any]) -> KindOptions:
    options = KindOptions(
        description=inspect.getdoc(inspect.unwrap(task.run)) or "",
        max_attempts=MOST_ATTEMPTS if task.max_retries is None else min(task.max_retries + 1, MOST_ATTEMPTS),
    )
    if limit := task.soft_time_limit or task.time_limit:
        options["timeout"] = math.ceil(limit)
    if queue := getattr(task, "queue", None):
        options["queue"] = str(getattr(queue, "name", queue))
    return options


# --- What a task says while it runs -----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Listener:
    """Hears what one attempt of a task tells Celery."""

    context: Context
    state: str | None = None
    """The last state that the task gave itself."""
    meta: Any = None

    def hear(self, state: str | None, meta: Any) -> None:
        """Make progress of a state; a final one says no more than what `Ignore` is to leave behind."""
        self.state, self.meta = state, meta
        if state in states.READY_STATES:
            return
        said = meta if isinstance(meta, dict) else {}
        numbers = {each: _number(said.get(each)) for each in ("percent", "current", "total")}
        message = _text(said)
        try:
            if message or any(each is not None for each in numbers.values()):
                self.context.progress(message=message, **numbers)
            else:
                self.context.check_cancelled()
        except JobTimedOut as late:
            raise TaskTimedOut(str(late)) from late


_listeners: dict[str, _Listener] = {}
"""By the id of the job, which is its task's id too, so that threads of the task are heard as well."""


def _overhear(task: Task[..., Any]) -> None:
    """Have a job hear the states that its task gives itself; those of tasks that are no jobs go where they went."""
    tell_backend = task.update_state

    def update_state(task_id: str | None = None, state: str | None = None, meta: Any = None, **more: Any) -> None:
        listener = _listeners.get(task_id or task.request.id or "")
        if listener:
            listener.hear(state, meta)
        else:
            tell_backend(task_id=task_id, state=state, meta=meta, **more)

    task.update_state = update_state  # type: ignore[method-assign]  # of this task alone


def _number(value: Any) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            return value
        case Real() | Decimal():
            return float(value)
        case _:
            return None


def _text(meta: Any) -> str | None:
    """Find what a state's meta says to people: celery-progress calls it `description`, others otherwise."""
    if isinstance(meta, dict):
        meta = next(
            (meta[each] for each in ("description", "message", "status", "exc_message") if meta.get(each)), None
        )
    return meta if isinstance(meta, str) and meta else None


# --- One attempt ------------------------------------------------------------------------------------------------------


@cache
def _tracer(task: Task[..., Any]) -> Any:
    """Make what calls a task, once in a process, as a worker of Celery does."""
    return build_tracer(task.name, task, eager=True, app=task.app)


def _play(task: Task[..., Any], context: Context, params: dict[str, Any]) -> Any:
    """Run a task as `Task.apply` does, but once: its hooks and signals are called, and nothing is sent or stored."""
    task_id = str(context.job_id)
    request = {
        "id": task_id,
        "root_id": task_id,
        "task": task.name,
        "retries": context.attempt - 1,
        "is_eager": True,  # `retry` raises and sends nothing; Celery leaves the worker's database connection alone
        "delivery_info": {"is_eager": True},
        "timelimit": [task.time_limit, task.soft_time_limit],
    }
    listener = _listeners[task_id] = _Listener(context=context)
    try:
        ended = _tracer(task)(task_id, [], params, request)
    finally:
        if _listeners.get(task_id) is listener:  # the job may have been given to another thread of this process
            del _listeners[task_id]
    if ended.info is None:
        return ended.retval
    if context.stopped_by:  # whatever the task made of it
        raise context.stopped_by
    match ended.info.retval:
        case JobsError() as fault:
            raise fault
        case Retry() as asked:
            raise _another_attempt(task, asked, params) from asked
        case Reject() as fault:
            is_for_later: bool = fault.requeue  # type: ignore[attr-defined]  # celery-types leaves it out
            raise JobFailure("task_rejected", "The task refused the job.", retry=is_for_later) from fault
        case Ignore() as fault:
            return _left_behind(listener, fault)
        case fault:
            raise DoNotRetry(
                f"The job's code failed with {type(fault).__name__}. Its operator can see the details."
            ) from fault


def _another_attempt(task: Task[..., Any], asked: Retry, params: dict[str, Any]) -> JobFailure:
    sent = asked.sig  # type: ignore[attr-defined]  # celery-types leaves it out
    if sent is not None:
        bind = inspect.signature(task.run).bind
        if bind(*sent.args, **sent.kwargs) != bind(**params):
            return DoNotRetry(
                "The task asked to be tried with other arguments; a job keeps its own.", "other_arguments"
            )
    match asked.when:
        case None:
            seconds = float(task.default_retry_delay)
        case datetime() as moment:
            seconds = (maybe_make_aware(moment) - datetime.now(UTC)).total_seconds()
        case countdown:
            seconds = float(countdown)
    reason = f" after {type(asked.exc).__name__}" if asked.exc else ""
    return RetryAfter(min(max(0.0, seconds), RetryAfter.LONGEST_SECONDS), f"The task asked to be tried later{reason}.")


def _left_behind(listener: _Listener, fault: Ignore) -> Any:
    """End as a task that raised `Ignore` would stand in Celery: as it left itself; one that left nothing, undone."""
    match listener.state:
        case states.SUCCESS:
            return listener.meta
        case states.FAILURE:
            raise DoNotRetry(_text(listener.meta) or "The task ended itself as failed.", "task_failed") from fault
        case _:
            raise JobCancelled("The task left the job undone.") from fault
