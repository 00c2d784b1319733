"""A worker process: who it is, whether it has to stop, and what its successor finds if it is killed."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from uuid import UUID, uuid4

from jobs.models import Worker
from jobs.sql import statements

_stop_sign = multiprocessing.RawValue("b", 0)
"""One byte that prefork children share with their parent; it has no lock, which a killed child could leave locked."""


def tell_to_stop() -> None:
    """Let running jobs end for a while and claim no more; heeded by this process and its children."""
    _stop_sign.value = 1


def is_stopping() -> bool:
    """Tell whether the worker has to stop."""
    return bool(_stop_sign.value)


@dataclass(kw_only=True)
class Process:
    """This worker process, from its start to its end."""

    id: UUID = field(default_factory=uuid4)
    queues: list[str] = field(default_factory=list)
    slots: int = 1
    can_exit: bool = False
    """Whether ending this process ends one job only, as in a prefork child."""
    seat: Seat | None = None
    leaked: int = 0
    """Slots whose handler could not be ended."""

    def tell_seen(self) -> None:
        """Write down that the process lives."""
        now = statements().now()
        Worker.objects.update_or_create(
            id=self.id,
            defaults={"seen_at": now},
            create_defaults={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "queues": self.queues,
                "slots": self.slots,
                "started_at": now,
                "seen_at": now,
            },
        )

    def note_running(self, job_id: UUID | None) -> None:
        """Leave word of whose handler runs now, for whoever comes after this process."""
        if self.seat:
            self.seat.note_running(job_id)

    def note_hand(self, job_ids: Sequence[UUID]) -> None:
        """Leave word of what was claimed, for whoever comes after this process."""
        if self.seat:
            self.seat.note_hand(job_ids)


@cache
def this_process() -> Process:
    """Give this process its identity; a forked child gets one of its own."""
    return Process()


os.register_at_fork(after_in_child=this_process.cache_clear)


# --- What a killed child leaves behind --------------------------------------------------------------------------------

SEATS = 1024
LARGEST_HAND = 32
_ID_BYTES = 16
_SEAT_BYTES = (2 + LARGEST_HAND) * _ID_BYTES
_memory = mmap.mmap(-1, SEATS * _SEAT_BYTES)
"""Shared by a worker and its prefork children; ids only: each child's own, of the job that runs, of those in hand."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a child that was killed had in hand."""

    worker: UUID
    running: UUID | None
    hand: Sequence[UUID]
    """What it had claimed last; some of it may have ended."""


class Seat:
    """A prefork child's place in its pool. A pool gives a place away again only when the child in it has died.

    Args:
        number: from 0 to `SEATS` - 1.
    """

    def __init__(self, number: int) -> None:
        self._own = number * _SEAT_BYTES
        self._running = self._own + _ID_BYTES
        self._hand = self._running + _ID_BYTES

    def take(self, worker: UUID) -> Left | None:
        """Sit down, and give what the one before left, if it went without a word."""
        before, running, *hand = self._read(self._own, 2 + LARGEST_HAND)
        self._write(self._own, [worker, *[None] * (1 + LARGEST_HAND)])
        return Left(worker=before, running=running, hand=[each for each in hand if each]) if before else None

    def note_running(self, job_id: UUID | None) -> None:
        """Leave word of whose handler runs now."""
        self._write(self._running, [job_id])

    def note_hand(self, job_ids: Sequence[UUID]) -> None:
        """Leave word of what was claimed."""
        self._write(self._hand, [*job_ids, *[None] * (LARGEST_HAND - len(job_ids))])

    def leave(self) -> None:
        """Go in good order."""
        self._write(self._own, [None])

    def _read(self, start: int, count: int) -> list[UUID | None]:
        ids = (
            UUID(bytes=_memory[place : place + _ID_BYTES])
            for place in range(start, start + count * _ID_BYTES, _ID_BYTES)
        )
        return [each if each.int else None for each in ids]

    def _write(self, start: int, ids: Sequence[UUID | None]) -> None:
        written = b"".join(each.bytes if each else bytes(_ID_BYTES) for each in ids)
        _memory[start : start + len(written)] = written
