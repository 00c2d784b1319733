"""A worker process: who it is, whether it has to stop, and what its successor finds if it is killed."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import socket
from dataclasses import dataclass, field
from functools import cache
from uuid import UUID, uuid4

from jobs.models import Worker
from jobs.sql import statements

SEEN_SECONDS = 10.0
"""How often a process says that it lives."""

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
    """This worker process, or sweeper, from its start to its end."""

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


@cache
def this_process() -> Process:
    """Give this process its identity; a forked child gets one of its own."""
    return Process()


os.register_at_fork(after_in_child=this_process.cache_clear)


# --- What a killed child leaves behind --------------------------------------------------------------------------------

SEATS = 1024
_ID_BYTES = 16
_SEAT_BYTES = 2 * _ID_BYTES
_memory = mmap.mmap(-1, SEATS * _SEAT_BYTES)
"""Shared by a worker and its prefork children; ids only: each child's own, and that of the job that runs."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """Who a child was that was killed, and what it was at."""

    worker: UUID
    running: UUID | None


class Seat:
    """A prefork child's place in its pool. A pool gives a place away again only when the child in it has died.

    Args:
        number: from 0 to `SEATS` - 1.
    """

    def __init__(self, number: int) -> None:
        self._own = number * _SEAT_BYTES
        self._running = self._own + _ID_BYTES

    def take(self, worker: UUID) -> Left | None:
        """Sit down, and give what the one before left, if it went without a word."""
        before, running = self._read(self._own), self._read(self._running)
        self._write(self._own, worker)
        self._write(self._running, None)
        return Left(worker=before, running=running) if before else None

    def note_running(self, job_id: UUID | None) -> None:
        """Leave word of whose handler runs now."""
        self._write(self._running, job_id)

    def leave(self) -> None:
        """Go in good order."""
        self._write(self._own, None)

    def _read(self, start: int) -> UUID | None:
        found = UUID(bytes=_memory[start : start + _ID_BYTES])
        return found if found.int else None

    def _write(self, start: int, each: UUID | None) -> None:
        _memory[start : start + _ID_BYTES] = each.bytes if each else bytes(_ID_BYTES)
