"""Keeps ends of attempts on this host's disk while the database is away, so that a worker that dies then loses none.

A file an attempt, under `KABAR_DATA/spool`. Whoever comes by once the database is back writes them down, behind the
fence of their claim like any worker: what was run again meanwhile stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, OperationalError

from jobs import lifecycle
from jobs.files import sync
from jobs.lifecycle import Outcome
from jobs.models import Job

logger = logging.getLogger(__name__)

MOMENTS = ("began_at", "ended_at")


def keep(outcomes: Iterable[Outcome]) -> None:
    """Write ends to the disk; one that resists is said, and stays in its worker's memory alone."""
    for outcome in outcomes:
        try:
            _write(_path_of(outcome.job), json.dumps(_as_dict(outcome), cls=DjangoJSONEncoder))
        except OSError:
            logger.exception("%s %s: its end can't be kept on the disk", outcome.job.kind, outcome.job.id)


def forget(outcomes: Iterable[Outcome]) -> None:
    """Remove ends that are written down by now."""
    for outcome in outcomes:
        with suppress(OSError):
            _path_of(outcome.job).unlink(missing_ok=True)


def write_down() -> int:
    """Write down what is kept here, as far as it is still this attempt's to say.

    Returns:
        How many ends were written.

    Raises:
        OperationalError, InterfaceError: the database is away; what is left stays.
    """
    written = 0
    for path in sorted(_folder().glob("*.json")):
        try:
            written += _write_down(path)
        except (OperationalError, InterfaceError):
            raise
        except Exception:  # what doesn't fit, such as a file of another version, holds no other up
            logger.exception("%s can't be written down; it is left for its operator", path)
            with suppress(OSError):
                path.rename(path.with_suffix(".unreadable"))
    return written


def _write_down(path: Path) -> bool:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:  # another process came first
        return False
    identity, fence, attempt = UUID(values.pop("job")), values.pop("fence"), values.pop("attempt")
    job = Job.objects.filter(pk=identity, fence=fence, worker__isnull=False).first()
    ended = set()
    if job:
        job.attempt = attempt  # as it stood when its handler began
        since = time.time() - time.monotonic()
        moments = {name: values.pop(name) - since for name in MOMENTS}
        ended = lifecycle.finish([Outcome(job=job, **values, **moments)])
    logger.info("%s: its end was kept on the disk, and %s", identity, "is written" if ended else "came too late")
    path.unlink(missing_ok=True)
    return bool(ended)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    """Show an end as JSON; its moments, which are this process's own, become seconds since 1970."""
    since = time.time() - time.monotonic()
    values = {each.name: getattr(outcome, each.name) for each in fields(outcome) if each.name != "job"}
    values |= {name: values[name] + since for name in MOMENTS}
    job = outcome.job
    return {"job": str(job.id), "fence": job.fence, "attempt": job.attempt, **values}


def _folder() -> Path:
    folder = Path(settings.DATA) / "spool"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _path_of(job: Job) -> Path:
    return _folder() / f"{job.id}-{job.fence}.json"


def _write(path: Path, text: str) -> None:
    """Write a file that is whole or isn't there, and is on the disk when this returns."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    sync(unfinished)
    unfinished.rename(path)
    sync(path.parent)
