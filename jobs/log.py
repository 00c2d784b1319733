"""The event log: how it is written inside a transition's transaction, and how readers never miss a line of it.

A reader of one job reads by `sequence`. A reader of all jobs holds a `Position`. On PostgreSQL that is a snapshot and
not a number, because transactions commit in another order than their ids say: what is new is what one snapshot sees and
another didn't (`docs/decisions/cursor.md`). SQLite has one writer, whose row ids are in commit order.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import BooleanField, Count, Prefetch, Q, QuerySet
from django.db.models.expressions import RawSQL

from jobs.failures import JobsError
from jobs.models import Artifact, Batch, Event, EventType, Job, LogEpoch, Status
from jobs.representation import batch_event_as_dict, changing_state, event_as_dict

PAGE = 500
"""How many events are read at once."""


# --- Writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one event is to say."""

    job: Job
    """As it stands after the update that the event tells of."""
    type: EventType
    at: datetime
    sequence: int
    extra: dict[str, Any] = field(default_factory=dict)
    """More than the job's changing state, such as the handler's log line."""


def append(lines: Iterable[Line]) -> list[Event]:
    """Write events, inside the transaction of the update that raised their jobs' `sequence`."""
    return Event.objects.bulk_create(
        Event(
            job=line.job,
            owner_id=line.job.owner_id,
            team_id=line.job.team_id,
            kind=line.job.kind,
            sequence=line.sequence,
            type=line.type,
            data=changing_state(line.job) | line.extra,
            at=line.at,
        )
        for line in lines
    )


def append_batches(batches: Sequence[Batch], at: datetime) -> list[Event]:
    """Write that batches are complete, inside the transaction of the update that raised their `sequence`."""
    counts = count_jobs(batches)
    return Event.objects.bulk_create(
        Event(
            batch=batch,
            owner_id=batch.owner_id,
            team_id=batch.team_id,
            sequence=batch.sequence,
            type=EventType.BATCH_COMPLETED,
            data=counts[batch.pk],
            at=at,
        )
        for batch in batches
    )


def count_jobs(batches: Iterable[Batch]) -> dict[UUID, dict[str, int]]:
    """Count the jobs of batches by their status, as the Batch shows them; a batch has 1,000 at most.

    The index job_by_batch has all that is asked, so no job is read. Jobs that were removed are counted no more.
    """
    counts = {batch.pk: {status.lower(): 0 for status in Status.values} for batch in batches}
    rows = Job.objects.filter(batch__in=counts).values_list("batch", "status").annotate(Count("pk")).order_by()
    for batch_id, status, count in rows:
        counts[batch_id][status.lower()] = count
    return counts


# --- Reading one job --------------------------------------------------------------------------------------------------


def history(job_id: UUID, after: int = 0, limit: int = PAGE) -> list[Event]:
    """Read a job's events after a sequence, in order. Index: event_job_sequence."""
    return list(_with_jobs(Event.objects.filter(job_id=job_id, sequence__gt=after).order_by("sequence"))[:limit])


def finishing_artifacts(job: Job) -> list[Artifact]:
    """List the files of the attempt that completed a job, in the order they were attached."""
    return [each for each in job.artifacts.all() if each.fence == job.fence]


def envelope(event: Event) -> dict[str, Any] | None:
    """Show an event that was read here, by the rows that were read along with it: one read before may lack the result.

    Returns:
        None where its job was removed meanwhile.
    """
    if event.batch:
        return batch_event_as_dict(event, event.batch)
    return event_as_dict(event, event.job, finishing_artifacts(event.job)) if event.job else None


def _with_jobs(events: QuerySet[Event]) -> QuerySet[Event]:
    files = Prefetch("job__artifacts", Artifact.objects.order_by("id"))
    return events.select_related("job").prefetch_related(files)


# --- Reading all jobs -------------------------------------------------------------------------------------------------


class NotRecovered(JobsError):
    """A cursor is older than what is kept, of another log, or none of ours: what came after it can't be told."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a reader of all jobs stands: it has all that `seen` sees, and of what `until` sees all up to `id`.

    On PostgreSQL `seen` and `until` are snapshots as text; on SQLite only `id` counts.
    """

    seen: str = ""
    until: str = ""
    id: int = 0

    def as_cursor(self) -> str:
        """Write it as a client gets it: opaque, with this log's epoch and the time of writing."""
        text = f"{epoch()}/{int(time.time())}/{self.seen}/{self.until}/{self.id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)")


def _is_snapshot(text: str) -> bool:
    """Tell whether PostgreSQL takes this as a `pg_snapshot`: its bounds, and what is in progress between them."""
    found = SNAPSHOT.fullmatch(text)
    if found is None:
        return False
    low, high = int(found[1]), int(found[2])
    between = [int(each) for each in found[3].split(",")] if found[3] else []
    return 0 < low <= high < 2**63 and between == sorted(between) and all(low <= each < high for each in between)


def position_of(cursor: str) -> Position:
    """Read a client's cursor.

    Raises:
        NotRecovered: it isn't ours, is of another epoch, or events after it may be removed by now.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        of_epoch, minted, seen, until, last = text.split("/")
        position, age = Position(seen=seen, until=until, id=int(last)), time.time() - int(minted)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise NotRecovered("This cursor isn't one of ours.") from error
    if of_epoch != epoch():
        raise NotRecovered("This cursor is of another log.")
    if age > settings.RETENTION.total_seconds():
        raise NotRecovered("This cursor is older than the events that are kept.")
    is_sound = 0 <= position.id < 2**63
    if connection.vendor == "postgresql":
        is_sound &= _is_snapshot(seen) and (not until or _is_snapshot(until))
    if not is_sound:
        raise NotRecovered("This cursor isn't one of ours.")
    return position


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some events, each with the position right after it, and the position after them all."""

    events: Sequence[tuple[Event, Position]]
    position: Position
    is_last: bool


def here() -> Position:
    """Give the position at the log's present end."""
    if connection.vendor == "postgresql":
        return Position(seen=_snapshot())
    newest = Event.objects.order_by("-id").values_list("id", flat=True).first()
    return Position(id=newest or 0)


def read(position: Position, visible: Q | None = None, limit: int = PAGE, *, end: Position | None = None) -> Page:
    """Read what is new since a position, late commits included, each event once and each job's in order.

    Args:
        position: from `here`, an earlier page, or a cursor.
        visible: narrows to what the reader may see.
        limit: most events in the page.
        end: where to stop, a position after the last page of somebody; the log's present end if None.

    Indexes: `event_xid` (PostgreSQL), the primary key (SQLite).
    """
    until = ""
    events = Event.objects.filter(id__gt=position.id)
    if connection.vendor == "postgresql":
        until = position.until or (end.seen if end else _snapshot())
        events = events.filter(_committed_between(position.seen, until))
    elif end:
        events = events.filter(id__lte=end.id)
    if visible is not None:
        events = events.filter(visible)
    events = events.filter(Q(job__isnull=False) | Q(batch__isnull=False))
    rows = list(_with_jobs(events.order_by("id")).prefetch_related("batch")[:limit])
    is_whole = len(rows) < limit
    placed = [(event, Position(seen=position.seen, until=until, id=event.id)) for event in rows]
    after = placed[-1][1] if placed else Position(seen=position.seen, until=until, id=position.id)
    if is_whole and until:
        after = Position(seen=until)
        if placed:
            placed[-1] = (placed[-1][0], after)
    # A position inside an older page leads to where the log ended then: more may have followed.
    is_at_end = until == end.seen if end else not position.until
    return Page(events=placed, position=after, is_last=is_whole and is_at_end)


def _snapshot() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_snapshot()::text")
        snapshot: str = cursor.fetchone()[0]
        return snapshot


def _committed_between(seen: str, until: str) -> RawSQL:
    """Match what `until` sees and `seen` doesn't; the first two terms are there for the index on `xid`."""
    _, beyond, in_progress = seen.split(":")
    return RawSQL(
        "(jobs_event.xid >= %s::xid8 OR jobs_event.xid = ANY(%s::xid8[]))"
        " AND NOT pg_visible_in_snapshot(jobs_event.xid, %s::pg_snapshot)"
        " AND pg_visible_in_snapshot(jobs_event.xid, %s::pg_snapshot)",
        (beyond, in_progress.split(",") if in_progress else [], seen, until),
        output_field=BooleanField(),
    )


@cache
def epoch() -> str:
    """Name this log: its stored mark and, on PostgreSQL, the cluster, its timeline and the database.

    After a restore or a failover that lost commits, positions of before mean nothing.
    """
    marks = [str(LogEpoch.objects.values_list("value", flat=True).first())]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT system_identifier FROM pg_control_system()),"
                " (SELECT timeline_id FROM pg_control_checkpoint()),"
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            marks += [str(each) for each in cursor.fetchone()]
    return sha256("/".join(marks).encode()).hexdigest()[:12]
