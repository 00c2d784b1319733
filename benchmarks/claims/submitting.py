"""A process that submits one job after another, and tells how long each took.

    python -m benchmarks.claims.submitting OWNER

It says when it begins, goes on until its input is closed, and then prints the milliseconds as a JSON list.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import django


def main() -> None:
    """Submit until told to stop."""
    import config.celery  # noqa: F401 - the app that rings Kabar's bells becomes the current one

    django.setup()
    from jobs import lifecycle
    from jobs.kinds import get_kind
    from jobs.lifecycle import Submission

    submission = Submission(kind=get_kind("bench.noop"), owner_id=int(sys.argv[1]))
    lifecycle.accept([submission])  # the first one connects, and reads the code that it needs
    stop = threading.Event()
    threading.Thread(target=_await_end_of_input, args=(stop,), daemon=True).start()
    print("begun", flush=True)
    times = []
    while not stop.is_set():
        begun = time.perf_counter()
        lifecycle.accept([submission])
        times.append((time.perf_counter() - begun) * 1000)
    print(json.dumps(times))


def _await_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main()
