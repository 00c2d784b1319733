"""A job in the terminal: a line for each of its events, and a bar below them where stderr is a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import OutputWrapper
from django.db import OperationalError, connection
from django.utils import timezone
from tqdm import tqdm

from jobs import log
from jobs.log import finishing_artifacts
from jobs.models import Event, EventType, Job, Status
from jobs.representation import single_job_as_dict

LOOK_SECONDS = 0.3
"""How often the job is looked at: an indexed read each time, so that the broker and the channel layer may be away."""
LINES = 10
"""Without a bar, each of so many parts of the way gets a line."""
DETACHED = 130
"""The exit code of a command that SIGINT has ended, as shells have it."""

tqdm.monitor_interval = 0  # no thread beside a command


def show(job_id: UUID) -> Job:
    """Show on stderr what becomes of a job until it is done, and give it as it ended.

    Ctrl-C ends the process and leaves the job alone.

    Raises:
        Job.DoesNotExist: it was removed.
    """
    bar = tqdm(total=100, disable=None, leave=False, bar_format="{percentage:3.0f} % |{bar}| {elapsed} {desc}")
    screen = Screen(bar)
    try:
        for job, events in _looks(job_id):
            for event in events:
                screen.tell(event, job)
            screen.draw(job)
    except KeyboardInterrupt:
        bar.close()
        tell(f"No longer watching; the job goes on. Watch it again: manage.py watch {job_id}")
        sys.exit(DETACHED)
    finally:
        bar.close()
    return job


def end(job: Job, stdout: OutputWrapper, *, as_json: bool) -> int:
    """Print how a job ended, and give the command's exit code: 0 where it completed, else 1.

    Args:
        job: which is done.
        stdout: gets the result; all else goes to stderr.
        as_json: whether the whole Job is printed in place of its result.
    """
    shown = single_job_as_dict(job, finishing_artifacts(job))
    is_completed = job.status == Status.COMPLETED
    for each in shown["artifacts"]:
        tell(f"{each['name']} ({each['size']:,} bytes): {each['url']}")
    if as_json or is_completed:
        stdout.write(to_json(shown if as_json else job.result))
    return 0 if is_completed else 1


def to_json(value: Any) -> str:
    """Write JSON for people, without a character that a terminal would obey."""
    return printable(json.dumps(value, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """Escape, as JSON does, what isn't printable: a job's text must not move the cursor or turn letters round."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def tell(line: str) -> None:
    """Print a line on stderr, above the bar if there is one."""
    tqdm.write(printable(line), file=sys.stderr)


class Screen:
    """What is shown of a job while it is watched."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._last: tuple[int, str] | None = None

    def tell(self, event: Event, job: Job) -> None:
        """Print an event's line."""
        tell(f"{timezone.localtime(event.at):%H:%M:%S} {_words(event, job)}")

    def draw(self, job: Job) -> None:
        """Move the bar to where the job is."""
        progress = job.progress or {}
        percent, message = progress.get("percent") or 0.0, printable(progress.get("message") or "")
        self._bar.n = percent
        self._bar.set_description_str(message or job.status.lower())
        part = (int(percent * LINES / 100), message)
        if self._bar.disable and job.status == Status.RUNNING and progress and part != self._last:
            tell(f"{timezone.localtime():%H:%M:%S} {percent:.0f} % {message}".rstrip())
            self._last = part


def _looks(job_id: UUID) -> Iterator[tuple[Job, list[Event]]]:
    """Look at a job again and again until it is done; each look gives it with its new events."""
    sequence, is_away = 0, False
    while True:
        try:
            job = Job.objects.get(pk=job_id)
            events = log.history(job_id, sequence) if job.sequence > sequence else []
        except OperationalError:
            if not is_away:
                tell("The database is away; looking again until it is back.")
            is_away = True
            connection.close()
        else:
            is_away = False
            sequence = events[-1].sequence if events else sequence
            yield job, events
            if Status(job.status).is_final and sequence >= job.sequence:
                return
        time.sleep(LOOK_SECONDS)


def _words(event: Event, job: Job) -> str:
    data, error = event.data, event.data.get("error") or {}
    failure = f"{error.get('code')}: {error.get('message')}"
    match event.type:
        case EventType.LOG:
            return f"{data['log']['level']}: {data['log']['message']}"
        case EventType.ACCEPTED:
            return f"accepted as {job.id}"
        case EventType.STARTED:
            return f"attempt {data['attempt']} of {job.max_attempts} has begun"
        case EventType.RETRYING:
            next_at = f"; the next attempt at {_clock(data['runAt'])}" if data.get("runAt") else "; it will run again"
            return (failure if error else "put back") + next_at
        case EventType.FAILED:
            return f"failed after attempt {data['attempt']}: {failure}"
        case _:
            return event.type.removeprefix("job.")


def _clock(moment: str) -> str:
    return f"{timezone.localtime(datetime.fromisoformat(moment)):%H:%M:%S}"
