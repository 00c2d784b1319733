"""What each vendor's class of hot statements offers, and the values that go in and come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from jobs.models import Job


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """How one attempt ends: a row of `exchange`. Moments are on this process's monotonic clock."""

    job: Job
    """As it was claimed; its fence guards the row."""
    status: str
    begun: dict[str, Any] | None = None
    """What the event of its begin says, times aside, where the row doesn't tell of the begin yet; else None."""
    began_at: float = 0.0
    ended_at: float = 0.0
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

    @property
    def id(self) -> UUID:
        return self.job.id

    @property
    def fence(self) -> int:
        return self.job.fence


@dataclass(frozen=True, kw_only=True)
class Want:
    """What a worker asks for: a hand of jobs."""

    queue: str
    worker: UUID
    kinds: Sequence[str]
    """Those that this worker can run."""
    quick_kinds: Sequence[str] = ()
    """Those whose jobs may lie in a hand; any other's is claimed alone."""
    count: int = 1
    begins: bool = True
    """Whether the first begins at once; else all are only reserved, and none that has to be alone is given."""
    lease_seconds: float


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A job whose attempt has ended, as it stands now."""

    id: UUID
    status: str
    sequence: int


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """What came of an exchange."""

    settled: Sequence[Settled] = ()
    """Those whose fence held, in the order they were given."""
    claimed: Sequence[Sequence[Any]] = ()
    """Rows of the next hand, for `rows.jobs_of`, most urgent first: the first runs, if it was to begin; the others are
    reserved."""
    waits: Sequence[float] = ()
    """How many seconds each had been in line."""
    is_more_held: bool = False
    """Whether other due jobs were locked meanwhile, so that another worker may have found none."""


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """A sign of life of one running job: a row of `beat`."""

    id: UUID
    fence: int
    progress: dict[str, Any] | None = None
    version: int = 0
    lines: int = 0
    """How many log lines come with it."""


@dataclass(frozen=True, kw_only=True)
class Renewed:
    """A job whose fence held, as it stands after a beat."""

    id: UUID
    version: int
    sequence: int
    is_cancelled: bool


class Statements(Protocol):
    """The hot statements; see `jobs.lifecycle` for what they mean."""

    def now(self) -> datetime:
        """Read the database's clock."""

    def accept(self, alike: Sequence[Sequence[Job]], varying: Collection[str]) -> None:
        """Insert jobs that are complete but for their `turn`, and their first events.

        Args:
            alike: one at least; those together differ in nothing that says where they stand in line.
            varying: the columns in which any of them may differ.
        """

    def written(self, settlements: Sequence[Settlement]) -> Any:
        """Write settlements the way `exchange` takes them; before its transaction, which nobody should wait for."""

    def exchange(self, settlements: Any, want: Want | None) -> Exchanged:
        """End attempts, then claim the next hand. Indexes: the primary key, job_claim.

        Rows whose fence has moved on are left alone and not returned.
        """

    def beat(self, renewals: Sequence[Renewal], lease_seconds: float) -> list[Renewed]:
        """Renew leases and write progress; rows whose fence has moved on are not returned. Index: the primary key."""

    def make_due(self, ids: Sequence[UUID], gates: Mapping[str, int]) -> None:
        """Put pending jobs in line, behind those of their users that stand there. Indexes: job_claim, job_turn.

        Args:
            ids: whose; their rows are locked by the caller.
            gates: where jobs of kinds with a limit wait first.
        """

    def lock_kind(self, kind: str) -> None:
        """Be the only one who counts the running jobs of a kind, until the transaction ends."""
