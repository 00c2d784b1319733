"""Where counts lie: files that each process writes by itself and that whoever is asked adds up.

`prometheus_client` has that mode, with a set of files for each process id. Children come and go by the thousand, and
the files of dead ones would pile up. So a process takes the lowest *place* that is free, and goes on with the counts of
whoever had it before: there are never more files than processes lived at once. A lock on the place tells who lives; the
kernel lifts it with its holder's death, however that comes (docs/decisions/metrics.md).
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from django.conf import settings
from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

logger = logging.getLogger(__name__)

FOLDER: Path = settings.METRICS_DIR
KIB = 1024
FILES = {"counter": 128 * KIB, "histogram": 512 * KIB, "gauge_livesum": 4 * KIB, "gauge_max": 16 * KIB}
"""What a place has, and how many bytes are reserved for it: a process is killed that writes through a mapping into a
file for which the disk has no room. About 200 bytes a series; the library doubles a file that is full."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A set of files that this process alone writes while it lives."""

    number: int
    lock: int
    """The descriptor that holds it."""


_place: Place | None = None
_is_installed = False


def place_of_process() -> str:
    """Name this process's place; it takes one when it counts for the first time.

    Raises:
        OSError: the disk has no room, or the folder is gone.
    """
    global _place
    if not _is_installed:
        return ""  # the library asks when it is imported, also where nothing is ever counted
    if _place is None:
        _place = take_place()
    return str(_place.number)


def take_place() -> Place:
    """Take the lowest place that is free, with its counts.

    Raises:
        OSError: the disk has no room, or the folder is gone.
    """
    FOLDER.mkdir(exist_ok=True, mode=0o700)
    for number in count():
        lock = _lock(number)
        if lock is None:
            continue
        try:
            _make_ready(number)
        except BaseException:
            os.close(lock)
            raise
        return Place(number=number, lock=lock)
    raise AssertionError  # pragma: no cover - numbers have no end


def read() -> Iterable[Metric]:
    """Add up what all processes have counted, the dead too; of gauges, what those have that live."""
    for path in FOLDER.glob("*.lock"):
        number = int(path.stem)
        lock = _lock(number)
        if lock is not None:
            try:
                mark_process_dead(number, str(FOLDER))  # type: ignore[no-untyped-call]
            finally:
                os.close(lock)
    metrics: Iterable[Metric] = MultiProcessCollector(None, str(FOLDER)).collect()  # type: ignore[no-untyped-call]
    return metrics


def _lock(number: int) -> int | None:
    """Hold a place, if nobody does."""
    lock = os.open(FOLDER / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _make_ready(number: int) -> None:
    """See that the files of a place that is held are whole; gauges of whoever had it before are dropped."""
    mark_process_dead(number, str(FOLDER))  # type: ignore[no-untyped-call]
    for name, size in FILES.items():
        path = FOLDER / f"{name}_{number}.db"
        if path.exists() and not _is_whole(path):
            logger.warning("%s was damaged, as by a power failure: its counts begin anew", path)
            path.unlink()
        if not path.exists():
            _reserve(path, size)


def _is_whole(path: Path) -> bool:
    try:
        MultiProcessCollector.merge([str(path)])  # type: ignore[no-untyped-call]
    except Exception:  # whatever the library stumbles over, it would stumble over again
        return False
    return True


def _reserve(path: Path, size: int) -> None:
    """Make an empty file whose room on the disk is its own; it appears with its whole size, or not at all."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def _leave_to_parent() -> None:
    """Have a forked child take a place of its own; the parent's lock stays with the parent."""
    global _place
    if _place is not None:
        os.close(_place.lock)
        _place = None


os.register_at_fork(after_in_child=_leave_to_parent)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(FOLDER)  # the library takes it from nowhere else
values.ValueClass = values.MultiProcessValue(place_of_process)  # type: ignore[no-untyped-call]
_is_installed = True
