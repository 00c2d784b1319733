"""A job as its pages show it: the state's word and shape, the news of it, and what its reader may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from jobs import artifact_urls
from jobs.api.artifacts import SHOWN_IN_PLACE
from jobs.estimates import UNKNOWN, Estimates
from jobs.failures import UnknownKind
from jobs.kinds import get_kind
from jobs.log import finishing_artifacts
from jobs.models import Artifact, Gate, Job, Status
from jobs.pages.wording import say_duration, say_number, say_size
from jobs.visibility import Viewer

RETRYING = "retrying"
STATE_WORDS = {
    "pending": gettext_lazy("Waiting"),
    "running": gettext_lazy("Running"),
    "completed": gettext_lazy("Completed"),
    "failed": gettext_lazy("Failed"),
    "cancelled": gettext_lazy("Cancelled"),
    RETRYING: gettext_lazy("Retrying"),
}
LONGEST_SUBTITLE = 120
MOST_FIGURES = 3
PLAYED = ("video/mp4", "video/webm")


@dataclass(frozen=True, kw_only=True)
class ShownFile:
    """A file of the result."""

    name: str
    size: str
    url: str
    """Signed, without a host: the frame and the links must be of the page's own origin."""
    is_main: bool
    content_type: str

    @property
    def look(self) -> str:
        """How a page shows it: `video` and `image` play and are drawn, `page` stands in a sandboxed frame, else empty.

        A player and a picture run nothing of the file's, whatever is in it; a frame would, but for its sandbox.
        """
        plain = self.content_type.partition(";")[0]
        if plain in PLAYED:
            return "video"
        if plain in SHOWN_IN_PLACE:
            return "image" if plain.startswith("image/") else "page"
        return ""

    @property
    def download_url(self) -> str:
        return f"{self.url}&download"


@dataclass(frozen=True)
class ShownJob:
    """A job, read by somebody at a moment; its files and uploads are read with it."""

    job: Job
    viewer: Viewer
    now: datetime
    estimates: Estimates = UNKNOWN
    """On its own page; in lists nothing is guessed."""

    @property
    def title(self) -> str:
        """The kind's title; its name where no installed app declares it any more."""
        try:
            return get_kind(self.job.kind).title
        except UnknownKind:
            return self.job.kind

    @property
    def state(self) -> str:
        """The status in lower case, and `retrying` between two attempts: names the word, the shape and the colour."""
        if self.job.status == Status.PENDING and self.job.attempt:
            return RETRYING
        return self.job.status.lower()

    @property
    def state_word(self) -> str:
        return str(STATE_WORDS[self.state])

    @cached_property
    def subtitle(self) -> str:
        """What tells this job from others of its kind: its files, else its first params."""
        uploads = list(self.job.uploads.all())
        if uploads:
            text = ", ".join(f"{each.name}, {say_size(each.size)}" for each in uploads)
        else:
            text = ", ".join(_figures(self.job.params))
        return Truncator(text).chars(LONGEST_SUBTITLE)

    @property
    def may_change(self) -> bool:
        """Team mates read; the owner and staff change."""
        return self.job.owner_id == self.viewer.user_id or self.viewer.is_staff

    @property
    def may_cancel(self) -> bool:
        return self.may_change and not self.job.is_final and self.job.cancel_requested_at is None

    @property
    def may_retry(self) -> bool:
        return self.may_change and self.job.status in (Status.FAILED, Status.CANCELLED)

    # --- the news of it

    @property
    def percent(self) -> int | None:
        """Whole percent, rounded down: 100 is said by the end alone."""
        percent = (self.job.progress or {}).get("percent")
        return None if percent is None else int(percent)

    @property
    def message(self) -> str:
        return (self.job.progress or {}).get("message") or ""

    @property
    def count(self) -> str:
        """How much is done of how much, in the handler's own unit."""
        progress = self.job.progress or {}
        current, total = progress.get("current"), progress.get("total")
        if current is None:
            return ""
        if total is None:
            return say_number(current)
        return _("%(current)s of %(total)s") % {"current": say_number(current), "total": say_number(total)}

    @property
    def time_left(self) -> str:
        if self.estimates.finish_at is None:
            return ""
        left = max(1.0, (self.estimates.finish_at - self.now).total_seconds())
        return _("about %(duration)s left") % {"duration": say_duration(round(left))}

    @property
    def next_try(self) -> int:
        return self.job.attempt + 1

    @property
    def starts_in(self) -> str:
        """How long until the next attempt may begin; empty where that is past."""
        run_at = self.job.run_at
        if run_at is None or run_at <= self.now:
            return ""
        return say_duration(round((run_at - self.now).total_seconds()))

    @property
    def place(self) -> str:
        """Where it stands in line; empty where that isn't known."""
        match self.estimates.place:
            case None:
                return ""
            case 1:
                return _("Next in line")
            case place:
                return _("Number %(place)s in line") % {"place": say_number(place)}

    @property
    def is_held_back(self) -> bool:
        """Whether it is due, and waits for others of its kind to end."""
        return self.job.gate in (Gate.USER, Gate.KIND)

    @property
    def error_message(self) -> str:
        return str((self.job.error or {}).get("message", ""))

    @property
    def ran(self) -> timedelta | None:
        """How long the last attempt has run, or did."""
        if self.job.started_at is None or self.job.status == Status.PENDING:
            return None
        return (self.job.finished_at or self.now) - self.job.started_at

    @property
    def ran_words(self) -> str:
        return "" if self.ran is None else say_duration(self.ran.total_seconds())

    @property
    def result_figures(self) -> str:
        """The result on one line: its first plain values."""
        result = self.job.result
        if isinstance(result, dict):
            return ", ".join(_figures(result)[:MOST_FIGURES])
        return "" if result is None or isinstance(result, list) else Truncator(_plain(result)).chars(LONGEST_SUBTITLE)

    @cached_property
    def files(self) -> list[ShownFile]:
        """Files of the attempt that completed the job, the main one first."""
        if self.job.status != Status.COMPLETED:
            return []
        found = sorted(finishing_artifacts(self.job), key=lambda each: not each.is_main)
        return [_shown_file(each, is_main=place == 0) for place, each in enumerate(found)]

    @property
    def main_file(self) -> ShownFile | None:
        return self.files[0] if self.files else None

    @property
    def poster(self) -> ShownFile | None:
        """The picture that stands for a video until it plays."""
        return next((each for each in self.files if each.look == "image"), None)


def _shown_file(artifact: Artifact, *, is_main: bool) -> ShownFile:
    parts = urlsplit(artifact_urls.signed_url(artifact))
    return ShownFile(
        name=artifact.name,
        size=say_size(artifact.size),
        url=f"{parts.path}?{parts.query}",
        is_main=is_main,
        content_type=artifact.content_type,
    )


def _figures(values: Mapping[str, Any]) -> list[str]:
    """Write the plain values of a JSON object, each after its name."""
    return [
        f"{_spaced(name)} {_plain(value)}"
        for name, value in values.items()
        if isinstance(value, str | int | float) and value != ""
    ]


def _spaced(name: str) -> str:
    """Write columnCount as column count."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


def _plain(value: Any) -> str:
    match value:
        case bool():
            return _("yes") if value else _("no")
        case int() | float():
            return say_number(value)
    return str(value)
