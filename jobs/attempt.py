"""One attempt: calls a kind's handler with what it asks for, and says how it went."""

from __future__ import annotations

import logging
import re
import threading
import traceback
from copy import deepcopy
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone
from rest_framework.serializers import Serializer

from jobs.context import Context, InputFile, clean_text, storable
from jobs.failures import JobCancelled, JobFailure, JobTimedOut, LeaseLost
from jobs.kinds import Kind, get_kind
from jobs.lifecycle import Outcome
from jobs.models import Job, JobUpload
from jobs.representation import as_json

logger = logging.getLogger(__name__)

DEEPEST_RESULT = 100
NUL_ESCAPE = re.compile(r"(?<!\\)(\\\\)*\\u0000")
"""NUL in JSON's text: an escape whose backslash isn't itself escaped. PostgreSQL's jsonb can't hold it."""


def attempt(job: Job, context: Context) -> Outcome | None:
    """Call the handler and tell how it went; None where the job is somebody else's by now."""
    try:
        kind = get_kind(job.kind)
        params = arguments(job, kind)
        result = async_to_sync(kind.handler)(context, params) if kind.is_async else kind.handler(context, params)
        if isinstance(context.stopped_by, LeaseLost):
            return None
        return Outcome(job=job, result=None if result is None else checked_result(result))
    except LeaseLost:
        return None
    except JobCancelled:
        return Outcome(job=job, is_cancelled=True)
    except JobTimedOut:
        return timed_out(job)
    except JobFailure as failure:
        return Outcome(
            job=job,
            error={"code": clean_text(failure.code), "message": clean_text(failure.message)},
            retry=failure.retry,
            retry_after=failure.retry_after,
            traceback=storable(traceback.format_exc()),
        )
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # SystemExit and asyncio's CancelledError too: they are the handler's, not ours
        trace = storable(traceback.format_exc())
        logger.warning("%s %s: attempt %d failed\n%s", job.kind, job.id, job.attempt, trace)
        message = f"The job's code failed with {type(fault).__name__}. Its operator can see the details."
        error = {"code": "handler_failed", "message": message}
        return Outcome(job=job, error=error, traceback=trace)


def timed_out(job: Job) -> Outcome:
    """Tell of an attempt whose time was over; past the whole job's deadline no other one follows."""
    if job.finish_by and job.finish_by <= timezone.now():
        error = {"code": "deadline_exceeded", "message": f"It did not end within {job.deadline_seconds} s."}
        return Outcome(job=job, error=error, retry=False)
    error = {"code": "timeout", "message": f"The attempt took longer than {job.timeout_seconds} s."}
    return Outcome(job=job, error=error)


# --- Params -----------------------------------------------------------------------------------------------------------


def arguments(job: Job, kind: Kind) -> dict[str, Any]:
    """Make the handler's params of the row's: defaults and types by the kind's serializer, files opened by name."""
    reader = reader_of(kind)
    if not reader.fields:
        return {}
    uploads = {}
    if kind.file_params:
        uploads = {each.param: each.upload for each in JobUpload.objects.filter(job=job).select_related("upload")}
    plain = {name: value for name, value in job.params.items() if name not in uploads}
    reader.initial_data = plain
    # Copied, for a default may be a list that the handler changes.
    params: dict[str, Any] = deepcopy(reader.run_validation(plain))
    return params | {name: InputFile(upload=each) for name, each in uploads.items()}


_readers = threading.local()


def reader_of(kind: Kind) -> Serializer[Any]:
    """Give a kind's serializer, which each thread keeps, for making one is dear.

    No param is required: the job was checked when it was submitted, and a kind may have got another one since.
    """
    kept: dict[Any, Serializer[Any]] = _readers.__dict__
    if kind.params not in kept:
        reader = kept[kind.params] = kind.params(data={})
        for field in reader.fields.values():
            field.required = False
    return kept[kind.params]


# --- Results ----------------------------------------------------------------------------------------------------------


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
