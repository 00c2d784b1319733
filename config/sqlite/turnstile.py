"""The queue of those who want to write to one SQLite database, whatever process or thread they are in.

SQLite knows no queue: who finds its write lock taken sleeps, for longer each time, and tries again, and meanwhile a
process that commits and begins at once has it time after time. Two locked files beside the database put that right.
`pen` is had by whoever writes, `door` by the one who is next: a writer takes the door, then the pen, then leaves the
door. So nobody gets in before the one at the door, not even the process that has just laid down the pen.

It is a courtesy only. What keeps the data whole is SQLite's own lock, which each writer takes as well; a program that
doesn't know the queue (the `sqlite3` shell) costs others their turn and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from pathlib import Path

# A blocking `flock` would have no deadline, and a handler may write for minutes; so one looks again and again.
DOOR_PAUSE_SECONDS = 0.0002
"""Between two looks at the door. It doesn't grow at first: who waits longer must not look more rarely."""
PEN_PAUSE_SECONDS = 0.00005
"""Between two looks at the pen, which only the one at the door does: it is what a change of writers costs."""
PATIENT_AFTER_SECONDS = 0.05
"""From then on it is no short transaction that one waits for, and the pauses grow."""
LONGEST_PAUSE_SECONDS = 0.002
PAUSE_GROWTH = 1.1

_turnstiles: weakref.WeakSet[Turnstile] = weakref.WeakSet()
_lines: dict[Path, threading.Lock] = {}
"""One thread of a process at a time looks at the door; the others stand in line, where waiting costs nothing."""


class Turnstile:
    """One connection's way into the queue before a database file.

    The locks are `flock`s: they belong to the open file, so that two connections of one process queue as well, and the
    kernel takes them from a process that is killed.

    Args:
        database: the database's file; the locks lie beside it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._files: tuple[int, int] | None = None
        self.is_held = False
        _turnstiles.add(self)

    def enter(self, seconds: float) -> bool:
        """Wait for the turn to write.

        Args:
            seconds: how long at most.

        Returns:
            Whether it came; if not, nothing is held.

        Raises:
            OSError: the locks can't be opened.
        """
        deadline = time.monotonic() + seconds
        line = _lines.setdefault(self._database, threading.Lock())
        if not line.acquire(timeout=seconds):
            return False
        try:
            self._files = self._files or (_open_beside(self._database, "door"), _open_beside(self._database, "pen"))
            door, pen = self._files
            try:
                self.is_held = _take(door, DOOR_PAUSE_SECONDS, deadline) and _take(pen, PEN_PAUSE_SECONDS, deadline)
            finally:
                fcntl.flock(door, fcntl.LOCK_UN)
        finally:
            line.release()
        return self.is_held

    def leave(self) -> None:
        """Let the next one write; harmless without a turn."""
        if self.is_held and self._files:
            self.is_held = False
            # Said aloud, for a child that was forked this moment may still have the file open.
            fcntl.flock(self._files[1], fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave, and close the files until somebody enters again."""
        self.leave()
        self.forget()

    def forget(self) -> None:
        """Close the files without unlocking them, as a forked child must: the lock is its parent's."""
        files, self._files, self.is_held = self._files, None, False
        for file in files or ():
            os.close(file)

    def __del__(self) -> None:
        self.close()


def _open_beside(database: Path, name: str) -> int:
    file = os.open(f"{database}.{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # as SQLite does with the files it adds: a command run as root must not lock the owner out
        owner = database.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def _take(file: int, pause: float, deadline: float) -> bool:
    """Lock a file by the deadline, or tell that it wasn't possible; it is tried once at least."""
    patient_at = time.monotonic() + PATIENT_AFTER_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now >= deadline:
                return False
            if now > patient_at:
                pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)
            time.sleep(pause)
        else:
            return True


def _forget_all() -> None:
    """Let a forked child begin anew: its parent's turns aren't its own, nor are the threads that stood in line."""
    _lines.clear()
    for turnstile in list(_turnstiles):
        turnstile.forget()


os.register_at_fork(after_in_child=_forget_all)
