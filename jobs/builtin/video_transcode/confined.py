"""Run as a script of its own: takes limits on, then becomes the program that it is given.

    python confined.py PARENT MEMORY_BYTES CPU_SECONDS FILE_BYTES PROGRAM ARGUMENT…

A worker has threads, so its child may not run Python between fork and exec (`preexec_fn`); this runs after both.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Become the program, never to outlive the worker, even one that is killed."""
    parent, memory, cpu, size = map(int, sys.argv[1:5])
    command = sys.argv[5:]
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before this was said
        sys.exit(1)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
