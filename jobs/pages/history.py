"""The log of one job on its page: the panel of events and doors, the handler's lines, the tries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from jobs.models import Event, EventType, Job, Status
from jobs.pages.wording import say_duration, say_time
from jobs.subscribers import subscribers

MOST_EVENTS = 200
"""The page shows the newest; the API has them all."""

WORDS = {
    EventType.ACCEPTED: gettext_lazy("Accepted"),
    EventType.STARTED: gettext_lazy("Started"),
    EventType.LOG: gettext_lazy("Log line"),
    EventType.RETRYING: gettext_lazy("Retrying"),
    EventType.COMPLETED: gettext_lazy("Completed"),
    EventType.FAILED: gettext_lazy("Failed"),
    EventType.CANCELLED: gettext_lazy("Cancelled"),
}
ENDS = {
    EventType.RETRYING: "failed",
    EventType.FAILED: "failed",
    EventType.COMPLETED: "completed",
    EventType.CANCELLED: "cancelled",
}
# A delivery's state: the class that colours it, its shape, its word where the door says no more.
DELIVERY = {
    "delivered": ("completed", "yes", gettext_lazy("delivered")),
    "waiting": ("pending", "pending", gettext_lazy("waits")),
    "retrying": ("retrying", "retrying", gettext_lazy("will be tried again")),
    "failed": ("failed", "failed", gettext_lazy("failed")),
}
OPEN = ("waiting", "retrying")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one webhook heard of one event."""

    css: str
    icon: str
    text: str
    to: str
    """The host."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An event in the panel."""

    sequence: int
    word: str
    note: str
    webhooks: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """What the handler wrote for its user."""

    sequence: int
    at: datetime
    level: str
    message: str

    @property
    def time(self) -> str:
        return say_time(self.at, 1)


@dataclass
class Try:
    """One attempt: how it ended, if it did."""

    number: int
    begun: datetime
    state: str = "running"
    ended: datetime | None = None
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """When it began and how long it ran."""
        if self.ended is None:
            return say_time(self.begun)
        return f"{say_time(self.begun)}, {say_duration((self.ended - self.begun).total_seconds())}"


@dataclass(frozen=True, kw_only=True)
class History:
    """The newest part of a job's log, newest first, with what is known of each door."""

    rows: list[Row]
    lines: list[LogLine]
    """Oldest first."""
    tries: list[Try]
    addresses: int
    has_open_delivery: bool
    is_cut: bool

    @property
    def webhooks_note(self) -> str:
        if not self.addresses:
            return _("not asked")
        return ngettext("%(count)s address", "%(count)s addresses", self.addresses) % {"count": self.addresses}


def history_of(job: Job) -> History:
    """Read the newest of a job's log and who heard of it: a query, and one for each subscriber."""
    events = list(Event.objects.filter(job_id=job.pk).order_by("-sequence")[: MOST_EVENTS + 1])
    is_cut, events = len(events) > MOST_EVENTS, events[:MOST_EVENTS]
    deliveries = [each for subscriber in subscribers() for each in subscriber.doors(job)]
    cells: defaultdict[int, list[Cell]] = defaultdict(list)
    for each in deliveries:
        cells[each["sequence"]].append(_cell(each))
    return History(
        rows=[_row(event, job, cells[event.sequence]) for event in events],
        lines=[_line(event) for event in reversed(events) if event.type == EventType.LOG],
        tries=_tries(reversed(events)),
        addresses=len({each["to"] for each in deliveries}),
        has_open_delivery=any(each["state"] in OPEN for each in deliveries),
        is_cut=is_cut,
    )


def callback_host(job: Job) -> str:
    """Name whom the job's own callback calls; empty where there is none."""
    return (urlsplit(job.callback_url).hostname or "") if job.callback_url else ""


def _cell(delivery: dict[str, Any]) -> Cell:
    css, shape, word = DELIVERY.get(delivery["state"], DELIVERY["waiting"])
    return Cell(css=css, icon=shape, text=str(delivery.get("detail") or word), to=str(delivery["to"]))


def _line(event: Event) -> LogLine:
    line = event.data.get("log") or {}
    return LogLine(
        sequence=event.sequence, at=event.at, level=line.get("level", "info"), message=line.get("message", "")
    )


def _row(event: Event, job: Job, webhooks: Sequence[Cell]) -> Row:
    word, note = str(WORDS.get(EventType(event.type), event.type)), say_time(event.at, 3)
    match event.type:
        case EventType.STARTED:
            tries = {"number": event.data.get("attempt"), "most": job.max_attempts}
            note = f"{note}, {_('try %(number)s of %(most)s') % tries}"
        case EventType.LOG if (level := (event.data.get("log") or {}).get("level")) in ("warning", "error"):
            word = _("Log line, warning") if level == "warning" else _("Log line, error")
        case EventType.RETRYING if by := event.data.get("by"):
            word = _("Retry asked for")
            note = f"{note}, {_('by %(name)s') % {'name': by}}"
        case EventType.RETRYING if run_at := event.data.get("runAt"):
            pause = datetime.fromisoformat(run_at) - event.at
            word = _("Retrying in %(duration)s") % {"duration": say_duration(round(pause.total_seconds()))}
    return Row(sequence=event.sequence, word=word, note=note, webhooks=webhooks)


def _tries(events: Iterable[Event]) -> list[Try]:
    """Tell the tries from their beginnings and ends, newest first; each reopening counts from one again."""
    tries: list[Try] = []
    for event in events:
        if event.type == EventType.STARTED:
            tries.append(Try(number=event.data.get("attempt") or 0, begun=event.at))
        elif event.type in ENDS and tries and tries[-1].ended is None:
            last = tries[-1]
            last.state, last.ended = ENDS[EventType(event.type)], event.at
            last.error = event.data.get("error") or {} if event.data.get("status") != Status.COMPLETED else {}
    return tries[::-1]
