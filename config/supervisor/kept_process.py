"""One process that is kept alive until it is told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from config.supervisor.log import Log
from config.supervisor.warden import Warden

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0
LONGEST_LINE_BYTES = 64 * 1024
LAST_WORDS_SECONDS = 1.0


class Backoff:
    """How long to wait before the next start: twice as long each time, anew after a steady life."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY_SECONDS

    def delay_after(self, lived_seconds: float) -> float:
        """Return the seconds to wait after a life of so many."""
        if lived_seconds >= STEADY_SECONDS:
            self._next = FIRST_DELAY_SECONDS
        delay = self._next
        self._next = min(self._next * 2, LONGEST_DELAY_SECONDS)
        return delay


class KeptProcess:
    """Starts a command as the leader of a process group, and again whenever it ends unasked.

    A thread of its own waits for the process, so nothing polls. Signals are sent under a lock and only while
    the process isn't reaped, so they can't reach a stranger that was given its number. (Popen's own methods
    would reap it unseen: they aren't used.)
    """

    def __init__(
        self,
        *,
        name: str,
        command: str,
        environment: Mapping[str, str],
        directory: Path,
        grace_seconds: float,
        warden: Warden,
        log: Log,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._directory = directory
        self._grace_seconds = grace_seconds
        self._warden = warden
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._told_to_end = threading.Event()

    @property
    def pid(self) -> int | None:
        """The process's number, None while it is down."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the process and keep it; nothing happens where it is kept already."""
        if self._keeper is not None and self._keeper.is_alive():
            return
        self._told_to_end.clear()
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {self.name}", daemon=True)
        self._keeper.start()

    def ask_to_end(self) -> None:
        """Send SIGTERM to the process, which isn't started again; returns at once."""
        with self._lock:
            self._told_to_end.set()
            if self._process is not None:
                os.kill(self._process.pid, signal.SIGTERM)

    def wait_for_end(self) -> None:
        """Wait for what `ask_to_end` began; after the grace, SIGKILL its group."""
        if self._keeper is None:
            return
        self._keeper.join(self._grace_seconds)
        if self._keeper.is_alive():
            self._log.own(f"{self.name} did not end within {self._grace_seconds:g} s and is killed")
            self.kill()
            self._keeper.join()

    def kill(self) -> None:
        """Send SIGKILL to the process and its group; it isn't started again."""
        with self._lock:
            self._told_to_end.set()
            if self._process is not None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _keep(self) -> None:
        backoff = Backoff()
        while (process := self._spawn()) is not None:
            started_at = time.monotonic()
            reader = threading.Thread(target=self._read, args=(process,), name=f"reader of {self.name}", daemon=True)
            reader.start()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            lived = time.monotonic() - started_at
            self._reap(process)
            reader.join(LAST_WORDS_SECONDS)
            if self._told_to_end.is_set():
                self._log.own(f"{self.name} ended")
                return
            delay = backoff.delay_after(lived)
            self._log.own(f"{self.name} {_ending(process.returncode)} after {lived:.1f} s; next start in {delay:g} s")
            self._told_to_end.wait(delay)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._told_to_end.is_set():
                return None
            # `exec` makes the shell become the command: the number is the command's, no shell stands between.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {self._command}"],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone
            )
            self._warden.watch(self._process.pid)
            self._log.own(f"{self.name} started, process {self._process.pid}")
            return self._process

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            # Whatever the leader left of its group, a pool's children above all, would work on unseen.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._warden.forget(process.pid)
            process.wait()
            self._process = None

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - for the type: it was opened as a pipe
        with process.stdout as output:
            while line := output.readline(LONGEST_LINE_BYTES):
                self._log.line(self.name, line)


def _ending(returncode: int) -> str:
    if returncode < 0:
        names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
        return f"was killed by {names.get(-returncode, f'signal {-returncode}')}"
    return f"ended with code {returncode}"
