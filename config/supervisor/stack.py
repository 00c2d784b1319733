"""All processes of a Procfile, started and ended in order."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from config.supervisor import procfile as procfiles
from config.supervisor.kept_process import KeptProcess
from config.supervisor.log import Log
from config.supervisor.roles import ROLES, Role
from config.supervisor.warden import Warden

READY_SECONDS = 30.0
PAUSE_SECONDS = 0.05


class NotReady(Exception):
    """A process did not show in time that it serves, or the stack was ended while it was waited for."""


class Supervisor:
    """Runs entries of a Procfile until it is told to stop; for any thread, for it sets no signal handler.

    A copy is called by its name (`worker.2`), all copies of an entry by the entry's (`worker`).

    Args:
        procfile: the file; its folder is where the commands run.
        env: the processes' whole environment (None: this process's own), to which the interpreter's folder
            (first on PATH), PYTHONUNBUFFERED and each copy's HONCHO_PROCESS_NAME are added.
        processes: the entries to run; None runs all.
        counts: how many copies of an entry, where not one.
        output: where the log goes; None writes none.
        roles: what to know of the entries; those not named get `Role()`.
    """

    def __init__(
        self,
        procfile: Path,
        *,
        env: Mapping[str, str] | None = None,
        processes: Iterable[str] | None = None,
        counts: Mapping[str, int] | None = None,
        output: TextIO | None = None,
        roles: Mapping[str, Role] = ROLES,
    ) -> None:
        entries = procfiles.read(procfile, processes, counts or {})
        self._env = _with_interpreter(os.environ if env is None else env)
        self._roles = {entry.name: roles.get(entry.kind, Role()) for entry in entries}
        self._log = Log(output, [entry.name for entry in entries])
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._warden = Warden()
        self._processes = {
            entry.name: KeptProcess(
                name=entry.name,
                command=entry.command,
                environment={**self._env, "HONCHO_PROCESS_NAME": entry.name},
                directory=procfile.resolve().parent,
                grace_seconds=self._roles[entry.name].grace_seconds,
                warden=self._warden,
                log=self._log,
            )
            for entry in entries
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str | None = None) -> None:
        """Start all, tier after tier, or those of one name that `stop` ended.

        Raises:
            NotReady: a tier that others wait for isn't ready after 30 s; the rest isn't started.
        """
        waiting_for: list[KeptProcess] = []
        for tier in self._tiers(self._named(name)):
            self._wait_until_ready(waiting_for, READY_SECONDS)
            for process in tier:
                with self._lock:
                    if self._stopped.is_set():
                        raise NotReady("the stack was stopped while it started")
                    process.start()
            waiting_for = tier

    def wait_until_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until every process runs and those that can show it serve.

        Raises:
            NotReady: the time passed; the text names who is missing.
        """
        self._wait_until_ready(list(self._processes.values()), timeout_seconds)

    def pid(self, name: str) -> int | None:
        """Return the number of a copy's process, None while it is down.

        Raises:
            KeyError: no copy has the name, or several have.
        """
        named = self._named(name)
        if len(named) > 1:
            raise KeyError(f"{name!r} are several: {', '.join(process.name for process in named)}")
        return named[0].pid

    def stop(self, name: str) -> None:
        """End a copy, or all of an entry, and keep it down until `start(name)`; returns when it has ended."""
        self._end(self._named(name))

    def restart(self, name: str) -> None:
        """End a copy, or all of an entry, and start it again."""
        self.stop(name)
        self.start(name)

    def stop_all(self) -> None:
        """End everything, tier after tier from the last; returns when nothing runs."""
        with self._lock:
            self._stopped.set()
        for tier in reversed(list(self._tiers(self._processes.values()))):
            self._end(tier)
        self._warden.close()

    def hurry(self) -> None:
        """Kill at once whatever still runs; `stop_all` then returns soon."""
        self._log.own("killing what still runs")
        for process in self._processes.values():
            process.kill()

    def say(self, text: str) -> None:
        """Write a line of the supervisor's own into the log."""
        self._log.own(text)

    def _end(self, processes: Sequence[KeptProcess]) -> None:
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.wait_for_end()

    def _wait_until_ready(self, processes: Sequence[KeptProcess], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        waiting = list(processes)
        while waiting := [process for process in waiting if not self._is_ready(process)]:
            names = ", ".join(process.name for process in waiting)
            if time.monotonic() > deadline:
                raise NotReady(f"not ready after {timeout_seconds:g} s: {names}; the log above says why")
            if self._stopped.wait(PAUSE_SECONDS):
                raise NotReady(f"the stack was stopped while it waited for {names}")

    def _is_ready(self, process: KeptProcess) -> bool:
        is_ready = self._roles[process.name].is_ready
        return process.pid is not None and (is_ready is None or is_ready(self._env))

    def _named(self, name: str | None) -> list[KeptProcess]:
        if name is None:
            return list(self._processes.values())
        named = [process for own, process in self._processes.items() if name in (own, own.rpartition(".")[0])]
        if not named:
            raise KeyError(f"no process {name!r}; there are {', '.join(self._processes)}")
        return named

    def _tiers(self, processes: Iterable[KeptProcess]) -> Iterator[list[KeptProcess]]:
        def tier_of(process: KeptProcess) -> int:
            return self._roles[process.name].tier

        for _, tier in itertools.groupby(sorted(processes, key=tier_of), key=tier_of):
            yield list(tier)


def _with_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    """Let `python` and `celery` in a Procfile mean those beside the interpreter that runs us."""
    folder = str(Path(sys.executable).parent)
    path = os.pathsep.join(filter(None, [folder, env.get("PATH", os.defpath)]))
    return {**env, "PATH": path, "PYTHONUNBUFFERED": "1"}
