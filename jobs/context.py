"""What a handler is given: its job, seen from inside.

Its calls only append to a buffer and never touch the database: the guard thread of `runner` writes progress and log
lines down, at most once a second, so that a handler that reports a million times costs nearly nothing, and what it
reports is not bound to a transaction of its own.
"""

from __future__ import annotations

import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast
from uuid import UUID, uuid5

from django.core.files import File
from django.core.files.base import ContentFile
from django.utils import timezone

from jobs.failures import JobFailure, JobsError
from jobs.files import keep, measure
from jobs.models import Artifact, Job, Upload

LOG_LEVELS = ("debug", "info", "warning", "error")
MOST_LINE_CHARACTERS = 2000
MOST_LINES = 1000
"""A job keeps this many lines of its handler's log."""
LARGEST_NUMBER = 2**63
NAMESPACE = UUID("01931f6a-7c00-7000-8000-6b6162617200")


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file parameter as the handler gets it."""

    upload: Upload

    @property
    def name(self) -> str:
        return self.upload.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.upload.size

    @property
    def sha256(self) -> str:
        return self.upload.sha256

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for reading bytes."""
        with self.upload.file.open("rb") as stream:
            yield cast(BinaryIO, stream)


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a handler said since somebody last took its notes."""

    progress: dict[str, Any] | None
    lines: list[dict[str, Any]]
    moments: list[datetime]


class Context:
    """A handler's way to speak of its work.

    Args:
        job: as it was claimed.
        on_news: called when the buffer stops being empty, to wake who empties it.
    """

    def __init__(self, job: Job, on_news: threading.Event | None = None) -> None:
        self._job = job
        self._news = on_news or threading.Event()
        self._lock = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._message: str | None = None
        self._is_progress_new = False
        self._is_push_due = False
        self._lines: list[dict[str, Any]] = []
        self._moments: list[datetime] = []
        self._lines_left = max(0, MOST_LINES - job.log_lines)
        self._stop: JobsError | None = None

    @property
    def job_id(self) -> UUID:
        return self._job.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._job.attempt

    @property
    def max_attempts(self) -> int:
        return self._job.max_attempts

    @property
    def idempotency_token(self) -> str:
        """The same for every attempt of this job: give it to whatever must not happen twice."""
        return str(uuid5(NAMESPACE, str(self._job.id)))

    def progress(
        self,
        percent: float | None = None,
        message: str | None = None,
        *,
        current: float | None = None,
        total: float | None = None,
    ) -> None:
        """Say how far the work is. Cheap: call it as often as you like.

        Args:
            percent: 0 to 100; made of `current` and `total` if left out.
            message: what is being done, for people; the last one stays if left out.
            current: how much is done, in any unit.
            total: how much there is, in the same unit.

        Raises:
            JobCancelled, JobTimedOut, LeaseLost: the work should stop. Let them pass.
        """
        self._check()
        percent, current, total = as_number(percent), as_number(current), as_number(total)
        if percent is None and current is not None and total:
            percent = 100.0 * current / total
        if percent is not None:
            percent = 0.0 if percent <= 0 else 100.0 if percent >= 100 else round(percent, 1)
        with self._lock:
            if message is not None:
                self._message = clean_text(message)
            self._progress = {"percent": percent, "message": self._message, "current": current, "total": total}
            self._is_progress_new = self._is_push_due = True
        if not self._news.is_set():
            self._news.set()

    def log(self, message: str, level: str = "info") -> None:
        """Write a line for the user into the job's log; a job keeps its first thousand.

        Args:
            message: one line, cut at 2,000 characters.
            level: debug, info, warning or error.

        Raises:
            ValueError: there is no such level.
            JobCancelled, JobTimedOut, LeaseLost: the work should stop. Let them pass.
        """
        if level not in LOG_LEVELS:
            raise ValueError(f"The level is {level!r}; it must be one of {', '.join(LOG_LEVELS)}.")
        self._check()
        with self._lock:
            if self._lines_left <= 0:
                return
            self._lines_left -= 1
            if self._lines_left == 0:
                message, level = "The log is full; later lines are left out.", "warning"
            self._lines.append({"level": level, "message": clean_text(message)})
            self._moments.append(timezone.now())
        self._news.set()

    def attach(
        self,
        name: str,
        source: bytes | str | Path | IO[bytes],
        content_type: str | None = None,
        *,
        main: bool = False,
    ) -> None:
        """Add a file to the result. The Job lists the files of the attempt that completes it.

        Args:
            name: a plain file name.
            source: bytes, text, the path of a file, or an open binary file.
            content_type: guessed from the name if left out.
            main: whether `resultUrl` should lead to it.

        Raises:
            JobFailure: the name isn't a plain file name, or this attempt has attached that name before.
        """
        self._check()
        if not name or name in (".", "..") or "/" in name or "\\" in name or len(name) > 255 or not name.isprintable():
            raise JobFailure("bad_artifact_name", f"{name!r} is not a plain file name.")
        if Artifact.objects.filter(job=self._job, fence=self._job.fence, name=name).exists():
            raise JobFailure("artifact_twice", f"{name} was attached before.")
        with as_file(source) as file:
            size, digest = measure(file)
            artifact = Artifact(
                job=self._job,
                fence=self._job.fence,
                attempt=self._job.attempt,
                name=name,
                content_type=content_type or mimetypes.guess_type(name)[0] or "application/octet-stream",
                size=size,
                sha256=digest,
                is_main=main,
                created_at=timezone.now(),
            )
            suffix = PurePosixPath(name).suffix
            keep(artifact.file, f"artifacts/{self._job.id}/{artifact.id}{suffix if suffix.isascii() else ''}", file)
            artifact.save()

    def check_cancelled(self) -> None:
        """Stop here if the job should stop.

        Raises:
            JobCancelled, JobTimedOut, LeaseLost: the work should stop. Let them pass.
        """
        self._check()

    def stop(self, reason: JobsError) -> None:
        """Make the handler's next call raise; called by the guard."""
        if self._stop is None:
            self._stop = reason

    @property
    def stopped_by(self) -> JobsError | None:
        """Why the handler was told to stop, if it was."""
        return self._stop

    @property
    def has_notes(self) -> bool:
        """Whether the buffer holds something that isn't written yet."""
        return self._is_progress_new or bool(self._lines)

    def progress_to_push(self) -> dict[str, Any] | None:
        """Give the newest progress if it wasn't pushed yet."""
        with self._lock:
            progress = self._progress if self._is_push_due else None
            self._is_push_due = False
            return progress

    @property
    def latest_progress(self) -> dict[str, Any] | None:
        """The newest progress, written or not."""
        return self._progress

    def take_notes(self) -> Notes:
        """Empty the buffer."""
        with self._lock:
            progress = self._progress if self._is_progress_new else None
            self._is_progress_new = False
            lines, moments, self._lines, self._moments = self._lines, self._moments, [], []
            return Notes(progress=progress, lines=lines, moments=moments)

    def put_back(self, notes: Notes) -> None:
        """Fill the buffer with notes that could not be written; newer progress wins."""
        with self._lock:
            if notes.progress is not None:
                self._is_progress_new = True
            self._lines[:0] = notes.lines
            self._moments[:0] = notes.moments

    def _check(self) -> None:
        if self._stop is not None:
            raise self._stop


def as_number(value: float | None) -> float | None:
    """Make a number that JSON can hold of whatever a handler counts with; None of NaN and the infinite."""
    if value is None:
        return None
    if type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER:
        return value
    number = int(value) if isinstance(value, int) else float(value)
    return number if abs(number) < LARGEST_NUMBER else None


def storable(text: str) -> str:
    """Make text that any database and JSON parser takes: no NUL, no lone surrogate."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def clean_text(text: str) -> str:
    """Make a storable text that isn't too long."""
    return storable(str(text))[:MOST_LINE_CHARACTERS]


@contextmanager
def as_file(source: bytes | str | Path | IO[bytes]) -> Iterator[File[bytes]]:
    """Make a Django file of whatever a handler attaches."""
    match source:
        case bytes():
            yield ContentFile(source)
        case str():
            yield ContentFile(source.encode())
        case Path():
            with source.open("rb") as stream:
                yield File(stream)
        case _:
            yield File(source)
