"""Has log lines say which job they belong to, whoever writes them while its handler runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.models import Job

_current: ContextVar[Job | None] = ContextVar("job", default=None)


@contextmanager
def of(job: Job) -> Iterator[None]:
    """Name a job in the lines that are logged inside."""
    before = _current.set(job)
    try:
        yield
    finally:
        _current.reset(before)


class JobFilter(logging.Filter):
    """Gives each record a `job`: ` [kind id]` while a handler runs, else nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        job = _current.get()
        record.job = f" [{job.kind} {job.id}]" if job else ""
        return True
