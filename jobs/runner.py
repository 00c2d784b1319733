"""A worker process at work: claim, run, guard, settle.

The handler runs in the thread that Celery gave; beside it one guard thread a process renews leases, writes progress and
log lines down, and sees to it that a job ends whose time is over or whose cancelling was asked for.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import socket
import threading
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connection, connections, transaction
from django.utils import timezone
from rest_framework.fields import empty
from rest_framework.serializers import Serializer

from jobs import doorbell, lifecycle, wakeup
from jobs.context import Context, InputFile, Notes, clean_text, storable
from jobs.failures import JobCancelled, JobFailure, JobTimedOut, LeaseLost
from jobs.kinds import get_kind
from jobs.lifecycle import LEASE_SECONDS, Beat, Outcome
from jobs.models import Job, JobUpload, Worker
from jobs.representation import as_json, progress_as_dict
from jobs.sql import statements

logger = logging.getLogger(__name__)

HAND = 1
"""Jobs claimed at once."""
HOLD_SECONDS = 10.0
"""How long one bell keeps a worker claiming."""
BEAT_SECONDS = 5.0
WRITE_SECONDS = 1.0
LOOK_SECONDS = 1.0
"""How often it is looked whether the worker has to stop, while a job runs."""
PUSH_SECONDS = 0.1
FORCE_SECONDS = 10.0
"""From telling a handler to stop to ending it by force."""
RELEASE_SECONDS = 10.0
"""How long a running job may go on once its worker has to stop; then it is put back for another one."""
SEEN_SECONDS = 10.0
RETRY_PAUSE_SECONDS = 0.5
DEEPEST_RESULT = 100
NUL_ESCAPE = re.compile(r"(?<!\\)(\\\\)*\\u0000")
"""NUL in JSON's text: an escape whose backslash isn't itself escaped. PostgreSQL's jsonb can't hold it."""


_stop_sign = multiprocessing.RawValue("b", 0)
"""One byte that prefork children share with their parent; it has no lock, which a killed child could leave locked."""


def tell_to_stop() -> None:
    """Let running jobs end for a while and claim no more; heeded by this process and its children."""
    _stop_sign.value = 1


def is_stopping() -> bool:
    """Tell whether the worker has to stop."""
    return bool(_stop_sign.value)


# --- The process ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Process:
    """This worker process, from its start to its end."""

    id: UUID = field(default_factory=uuid4)
    queues: list[str] = field(default_factory=list)
    slots: int = 1
    can_exit: bool = False
    """Whether ending this process ends one job only, as in a prefork child."""
    leaked: int = 0
    """Slots whose handler could not be ended."""

    def tell_seen(self) -> None:
        """Write down that the process lives."""
        now = statements().now()
        Worker.objects.update_or_create(
            id=self.id,
            defaults={"seen_at": now},
            create_defaults={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "queues": self.queues,
                "slots": self.slots,
                "started_at": now,
                "seen_at": now,
            },
        )


@cache
def this_process() -> Process:
    """Give this process its identity; a forked child gets one of its own."""
    return Process()


@cache
def guard() -> Guard:
    """Give this process its guard thread, started on first use."""
    watchman = Guard(this_process())
    watchman.start()
    return watchman


def _forget_identity() -> None:
    this_process.cache_clear()
    guard.cache_clear()


os.register_at_fork(after_in_child=_forget_identity)


def begin(*, queues: list[str], slots: int, can_exit: bool) -> None:
    """Introduce this process when its worker starts."""
    process = this_process()
    process.queues, process.slots, process.can_exit = queues, slots, can_exit
    guard()


def end() -> None:
    """Take this process off the list when its worker ends in good order."""
    Worker.objects.filter(id=this_process().id).delete()


# --- One bell ---------------------------------------------------------------------------------------------------------


def work(queue: str) -> int:
    """Claim and run jobs of a queue, one after another, until none is due or the time of one bell is over.

    Returns:
        How many were run.
    """
    worker, done, end_at = this_process(), 0, time.monotonic() + HOLD_SECONDS
    while time.monotonic() < end_at and not is_stopping():
        close_old_connections()
        jobs = lifecycle.claim(queue, HAND, worker.id)
        for job in jobs:
            run(job)
        if not jobs:
            break
        done += len(jobs)
    return done


def run(job: Job) -> None:
    """Run one claimed job to the end of its attempt."""
    logger.info("%s %s: attempt %d begins", job.kind, job.id, job.attempt)
    context = Context(job, guard().news)
    watch = guard().watch(job, context)
    try:
        outcome = attempt(job, context)
    finally:
        guard().release(watch)
    # The handler left a transaction open, or commits off: nothing of it may stay.
    if connection.in_atomic_block or not connection.get_autocommit():
        connection.close()
        del connections[connection.alias]  # Django opens none again that was closed inside a transaction
    if outcome is None:
        logger.warning("%s %s: the lease was lost, its result is dropped", job.kind, job.id)
        return
    is_ours = settle(watch, outcome)
    logger.info("%s %s: attempt %d %s", job.kind, job.id, job.attempt, "ended" if is_ours else "was fenced off")


def attempt(job: Job, context: Context) -> Outcome | None:
    """Call the handler and tell how it went; None where the job is somebody else's by now."""
    try:
        kind = get_kind(job.kind)
        result = kind.handler(context, arguments(job))
        if isinstance(context.stopped_by, LeaseLost):
            return None
        return Outcome(job=job, result=checked_result(result))
    except LeaseLost:
        return None
    except JobCancelled:
        return Outcome(job=job, is_cancelled=True)
    except JobTimedOut:
        return timed_out(job)
    except JobFailure as failure:
        error = {"code": clean_text(failure.code), "message": clean_text(failure.message)}
        return Outcome(job=job, error=error, retry=failure.retry, traceback=storable(traceback.format_exc()))
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # SystemExit and asyncio's CancelledError too: they are the handler's, not ours
        trace = storable(traceback.format_exc())
        logger.warning("%s %s: attempt %d failed\n%s", job.kind, job.id, job.attempt, trace)
        message = f"The job's code failed with {type(fault).__name__}. Its operator can see the details."
        error = {"code": "handler_failed", "message": message}
        return Outcome(job=job, error=error, traceback=trace)


def arguments(job: Job) -> dict[str, Any]:
    """Make the handler's params of the row's: defaults and types by the kind's serializer, files opened by name."""
    kind = get_kind(job.kind)
    uploads = {}
    if kind.file_params:
        uploads = {each.param: each.upload for each in JobUpload.objects.filter(job=job).select_related("upload")}
    plain = {name: value for name, value in job.params.items() if name not in uploads}
    serializer = kind.params(data=plain, partial=True)
    serializer.is_valid(raise_exception=True)
    return {
        **defaults_of(kind.params()),
        **serializer.validated_data,
        **{name: InputFile(upload=upload) for name, upload in uploads.items()},
    }


def defaults_of(serializer: Serializer[Any]) -> dict[str, Any]:
    """Give the defaults of params, for those that were added to a kind after the job was accepted."""
    return {
        str(field.source): field.get_default()
        for field in serializer.fields.values()
        if field.default is not empty and not field.read_only
    }


def checked_result(result: Any) -> Any:
    """Refuse what can't be kept as the result.

    Raises:
        JobFailure: it isn't JSON, holds NUL or a lone surrogate, or is too large.
    """
    try:
        text = as_json(result)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise JobFailure("result_invalid", "The job returned something that isn't JSON.") from error
    if is_nested_deeper(result, DEEPEST_RESULT):
        raise JobFailure("result_invalid", f"The job returned JSON that is nested over {DEEPEST_RESULT} levels deep.")
    if NUL_ESCAPE.search(text):
        raise JobFailure("result_invalid", "The job returned text that holds the character NUL.")
    if size > settings.MAX_RESULT_BYTES:
        raise JobFailure(
            "result_too_large",
            f"The job returned {size:,} bytes; over {settings.MAX_RESULT_BYTES:,} attach a file instead.",
        )
    return result


def is_nested_deeper(value: Any, most: int) -> bool:
    """Tell whether JSON is nested over so many levels deep; readers of it have recursion limits."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list | tuple)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def timed_out(job: Job) -> Outcome:
    """Tell of an attempt whose time was over; past the whole job's deadline no other one follows."""
    if job.finish_by and job.finish_by <= timezone.now():
        error = {"code": "deadline_exceeded", "message": f"It did not end within {job.deadline_seconds} s."}
        return Outcome(job=job, error=error, retry=False)
    error = {"code": "timeout", "message": f"The attempt took longer than {job.timeout_seconds} s."}
    return Outcome(job=job, error=error)


def settle(watch: Watch, outcome: Outcome) -> bool:
    """Write an attempt's end down, with what the handler said last; False if it was fenced off.

    A connection that breaks at COMMIT may hide a success, so the row is asked before it is written again.
    """
    notes = watch.context.take_notes()
    outcome = replace(outcome, progress=notes.progress, version=watch.version)
    give_up_at = time.monotonic() + LEASE_SECONDS
    while True:
        try:
            with transaction.atomic() if notes.lines else nullcontext():
                is_ours = not notes.lines or bool(lifecycle.beat([_beat(watch, notes)]))
                return (is_ours and bool(lifecycle.conclude([outcome]))) or _has_ended(watch.job)
        except (DatabaseError, InterfaceError):
            logger.warning("%s %s: its end can't be written yet", watch.job.kind, watch.job.id, exc_info=True)
            connection.close()
            if time.monotonic() > give_up_at:
                raise
            time.sleep(RETRY_PAUSE_SECONDS)


def _has_ended(job: Job) -> bool:
    """Tell whether this very attempt's end stands in the row: only its own worker may have written it."""
    return Job.objects.filter(pk=job.pk, fence=job.fence, worker__isnull=True, crashes=job.crashes).exists()


def _beat(watch: Watch, notes: Notes) -> Beat:
    return Beat(
        job_id=watch.job.id,
        fence=watch.job.fence,
        progress=notes.progress,
        version=watch.version,
        lines=notes.lines,
        moments=notes.moments,
    )


# --- The guard --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Watch:
    """A job that runs in this process, as its guard sees it; times are monotonic."""

    job: Job
    context: Context
    version: int
    deadline: float
    held_at: float
    next_beat: float
    next_write: float
    force_at: float | None = None
    release_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Guard(threading.Thread):
    """Looks after the jobs that run in this process."""

    def __init__(self, process: Process) -> None:
        super().__init__(name="guard", daemon=True)
        self.news = threading.Event()
        self._process = process
        self._watches: list[Watch] = []
        self._lock = threading.Lock()
        self._next_seen = 0.0
        self._is_closed = False

    def close(self) -> None:
        """End the thread and its connection; jobs that are still under guard are left to their leases."""
        self._is_closed = True
        self.news.set()
        self.join()

    def watch(self, job: Job, context: Context) -> Watch:
        """Take a job under guard."""
        now = time.monotonic()
        seconds = float(job.timeout_seconds)
        if job.finish_by and job.started_at:
            seconds = min(seconds, (job.finish_by - job.started_at).total_seconds())
        watch = Watch(
            job=job,
            context=context,
            version=job.version,
            deadline=now + seconds,
            held_at=now,
            next_beat=now + BEAT_SECONDS,
            next_write=now,
        )
        with self._lock:
            self._watches.append(watch)
        self.news.set()
        return watch

    def release(self, watch: Watch) -> None:
        """Let a job go whose handler has returned; waits while the guard is at it, and no progress goes out after."""
        with watch.lock:
            self._drop(watch)
        wakeup.forget_progress(str(watch.job.id))

    def _drop(self, watch: Watch) -> None:
        with self._lock:
            if watch in self._watches:
                self._watches.remove(watch)

    def run(self) -> None:
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:  # a handler's own transaction may hold the only writer: ask again later
                cursor.execute("PRAGMA busy_timeout = 5000")
        while not self._is_closed:
            has_news = self.news.wait(timeout=self._pause())
            self.news.clear()
            for watch in self._all():
                with watch.lock:
                    if watch in self._watches:
                        self._attend_and_survive(watch)
            self._tell_seen()
            if has_news:
                time.sleep(PUSH_SECONDS)
        connection.close()

    def _all(self) -> list[Watch]:
        with self._lock:
            return list(self._watches)

    def _pause(self) -> float:
        dues = [min(each.next_beat, each.force_at or each.deadline) for each in self._all()]
        dues += [each.next_write for each in self._all() if each.context.has_notes]
        pause = max(0.0, min([*dues, self._next_seen]) - time.monotonic())
        return min(pause, LOOK_SECONDS) if dues else pause

    def _attend_and_survive(self, watch: Watch) -> None:
        """Attend to a job; a fault of ours is written down and costs no other job its guard."""
        try:
            self._attend(watch)
        except Exception:
            logger.exception("%s %s: the guard stumbled", watch.job.kind, watch.job.id)
            watch.next_beat = watch.next_write = time.monotonic() + WRITE_SECONDS

    def _attend(self, watch: Watch) -> None:
        now = time.monotonic()
        self._push(watch)
        if now >= watch.next_beat or (now >= watch.next_write and watch.context.has_notes):
            self._write(watch, now)
        if now >= watch.deadline:
            self._tell_to_stop(watch, JobTimedOut("The attempt's time is over."), now)
        if watch.force_at and now >= watch.force_at:
            self._force(watch)
        elif is_stopping():
            watch.release_at = watch.release_at or now + RELEASE_SECONDS
            if now >= watch.release_at:
                self._release(watch)

    def _push(self, watch: Watch) -> None:
        progress = watch.context.progress_to_push()
        if progress is None:
            return
        watch.version += 1
        job = watch.job
        wakeup.tell_progress(
            str(job.id),
            {
                "job": str(job.id),
                "owner": job.owner_id,
                "team": job.team_id,
                "sequence": job.sequence,
                "version": watch.version,
                "envelope": as_json(progress_as_dict(job, progress, watch.version)),
            },
        )

    def _write(self, watch: Watch, now: float) -> None:
        notes = watch.context.take_notes()
        watch.next_beat, watch.next_write = now + BEAT_SECONDS, now + WRITE_SECONDS
        try:
            close_old_connections()
            held = lifecycle.beat([_beat(watch, notes)]).get(watch.job.id)
        except (DatabaseError, InterfaceError):
            logger.warning("%s %s: no beat, the database is away", watch.job.kind, watch.job.id)
            watch.context.put_back(notes)
            connection.close()
            if now - watch.held_at > LEASE_SECONDS:
                self._tell_to_stop(watch, LeaseLost("The lease ran out."), now)
            return
        if held is None:
            self._tell_to_stop(watch, LeaseLost("The job was given to another worker."), now)
            return
        watch.held_at = now
        watch.version = held.version
        watch.job.sequence = held.sequence
        if held.is_cancelled:
            self._tell_to_stop(watch, JobCancelled("The job is to be cancelled."), now)

    def _tell_to_stop(self, watch: Watch, reason: JobTimedOut | JobCancelled | LeaseLost, now: float) -> None:
        watch.context.stop(reason)
        watch.force_at = watch.force_at or now + FORCE_SECONDS

    def _force(self, watch: Watch) -> None:
        """End a job whose handler does not stop: its row ends, and its process with it where only that one is in it."""
        logger.error("%s %s: the handler does not stop", watch.job.kind, watch.job.id)
        self._drop(watch)
        try:
            match watch.context.stopped_by:
                case JobCancelled():
                    lifecycle.finish([Outcome(job=watch.job, is_cancelled=True)])
                case JobTimedOut():
                    lifecycle.conclude([timed_out(watch.job)])
        finally:  # where its end can't be written, the lease runs out, and the sweeper sees to it
            self._leave()

    def _release(self, watch: Watch) -> None:
        """Put a job back because its worker has to stop."""
        logger.info("%s %s: put back, the worker stops", watch.job.kind, watch.job.id)
        self._drop(watch)
        watch.context.stop(LeaseLost("The worker stops."))
        try:
            lifecycle.release(watch.job.id, watch.job.fence)
        finally:  # where it can't be written, the lease runs out, and the sweeper sees to it
            self._leave()

    def _leave(self) -> None:
        """Leave a handler that can't be waited for: end the process with it, or count its slot as leaked."""
        if self._process.can_exit:
            wakeup.flush(1.0)
            doorbell.flush(1.0)
            os._exit(1)
        self._process.leaked += 1

    def _tell_seen(self) -> None:
        if time.monotonic() < self._next_seen:
            return
        self._next_seen = time.monotonic() + SEEN_SECONDS
        try:
            self._process.tell_seen()
        except (DatabaseError, InterfaceError):
            connection.close()
