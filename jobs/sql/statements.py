"""What each vendor's class of hot statements offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from jobs.models import Job


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """How one attempt ends: a row of `settle`."""

    id: UUID
    fence: int
    status: str
    result: Any = None
    error: dict[str, Any] | None = None
    traceback: str = ""
    failed: int = 0
    progress: dict[str, Any] | None = None
    version: int = 0
    """The newest version that was pushed; the row's becomes larger."""
    delay_seconds: float = 0.0
    """Until the next attempt, where the status is PENDING."""
    retention_seconds: float = 0.0
    """Until the job is removed, where the status is final."""

    def as_dict(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


class Statements(Protocol):
    """The hot statements; see `jobs.lifecycle` for what they mean."""

    def now(self) -> datetime:
        """Read the database's clock."""

    def claim(self, *, queue: str, kinds: Sequence[str], count: int, worker: UUID, lease_seconds: float) -> list[Job]:
        """Give up to `count` due jobs to a worker, most urgent first. Index: job_claim."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Job]:
        """End attempts; rows whose fence has moved on are left alone and not returned. Index: the primary key."""
