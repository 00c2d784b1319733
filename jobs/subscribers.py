"""The one door out of this room: what those who want to hear of jobs must offer.

`jobs` imports nobody; who listens registers here when its app is ready (DESIGN, "the door between the rooms").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from jobs.models import Batch, Event, Job


class RefusedSubmission(Exception):
    """A subscriber won't serve what this submission asks of it.

    Args:
        pointer: a JSON pointer (RFC 6901) into the submission.
        code: a stable word for programs.
        message: one sentence that tells the user what to do.
    """

    def __init__(self, pointer: str, code: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.code = code
        self.message = message


class Subscriber(Protocol):
    """Somebody who hears of jobs."""

    def check_submission(self, *, callback_url: str, callback_events: Sequence[str]) -> None:
        """Say whether news of a job may go there, before the job is accepted.

        Raises:
            RefusedSubmission: it may not.
        """

    def hearing(self, owner_ids: Collection[int]) -> set[int]:
        """Tell which of these users have somebody registered who may want to hear of their jobs.

        Whether a job's own `callbackUrl` is to hear is for `on_events` to see; those jobs come there in any case.
        """

    def on_events(self, events: Sequence[tuple[Event, Job]]) -> None:
        """Write down what these events ask for, inside their own transaction."""

    def on_batches(self, events: Sequence[tuple[Event, Batch]]) -> None:
        """Write down what the ends of these batches ask for, inside their own transaction."""

    def on_purge(self, job_ids: Sequence[UUID]) -> None:
        """Remove all that belongs to these jobs, inside the transaction that removes them."""

    def has_open_work(self, subject_id: UUID) -> bool:
        """Tell whether news of this job or batch is still to be delivered."""

    def doors(self, job: Job) -> list[dict[str, Any]]:
        """Tell, for the job's page, who heard of each event: one dict a delivery."""


_subscribers: list[Subscriber] = []


def register(subscriber: Subscriber) -> None:
    """Add a subscriber; called once, when its app is ready."""
    _subscribers.append(subscriber)


def subscribers() -> Sequence[Subscriber]:
    """List who listens."""
    return _subscribers
