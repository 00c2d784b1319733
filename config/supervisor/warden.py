"""Ends the processes of a supervisor that was killed and could not do it itself.

A program of its own, outside of the supervisor's session: it reads from a pipe which process groups live, and
when the pipe closes, for whatever reason, it ends those that are left. This holds for grandchildren too, whom
the kernel's PR_SET_PDEATHSIG does not reach. It uses the standard library alone, so that it costs little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 10.0
PAUSE_SECONDS = 0.05


class Warden:
    """The supervisor's end of the pipe."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(grace_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The warden's own process."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Have the process group ended, should the supervisor die."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Take back `watch`; to be called before the leader is reaped, while the number is its own."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the warden, and with it whatever it still watches."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        # A warden that was itself killed is missed only if the supervisor is killed as well.
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None  # noqa: S101 - for the type: it was opened as a pipe
            self._process.stdin.write(line.encode())


def _stand_guard(grace_seconds: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    for leader in groups:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)  # the leader alone: it ends its own children in its own way
    deadline = time.monotonic() + grace_seconds
    while groups:
        ended = {leader for leader in groups if not _lives(leader) or time.monotonic() > deadline}
        for group in ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        groups -= ended
        time.sleep(PAUSE_SECONDS)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _stand_guard(float(sys.argv[1]))
