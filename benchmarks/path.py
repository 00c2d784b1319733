"""Where a single job's time goes below the bell: statement by statement, in this process, without a worker.

    python -m benchmarks.path [--database sqlite|postgresql] [--jobs 200]

Accepts, claims and ends one job after another, with a pause before each as on an idle system, and prints the median of
each step: its statements, its commit, and what is left, which is Python.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from benchmarks import rounds
from benchmarks.stack import servers

PAUSE_SECONDS = 0.02
WARM_UP_JOBS = 10
NAME_CHARACTERS = 60


@dataclass(kw_only=True)
class Step:
    """One transition, timed many times; all in milliseconds."""

    whole: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By statement, and the commit."""

    def print(self, name: str) -> None:
        """Print medians."""
        whole = statistics.median(self.whole)
        parts = {each: statistics.median(times) for each, times in self.parts.items()}
        print(f"\n{name:<64}{whole:>8.2f}")
        for each, milliseconds in parts.items():
            print(f"  {each:<62}{milliseconds:>8.2f}")
        print(f"  {'the rest: Python':<62}{whole - sum(parts.values()):>8.2f}")


class Watch:
    """Times what a connection is asked to do, for the step that is at work."""

    def __init__(self, connection: Any) -> None:
        self.step = Step()
        self._commit = connection._commit
        connection._commit = self._timed_commit

    def statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Time one statement; a wrapper for `connection.execute_wrapper`."""
        begun = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self._note(re.sub(r"\s+", " ", sql).strip()[:NAME_CHARACTERS], begun)

    def _timed_commit(self) -> None:
        begun = time.perf_counter()
        self._commit()
        self._note("COMMIT", begun)

    def _note(self, name: str, begun: float) -> None:
        self.step.parts[name].append((time.perf_counter() - begun) * 1000)


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    options = parser.parse_args()
    with servers(options.database, kabar=[]), ExitStack() as stack:
        from django.contrib.auth import get_user_model
        from django.db import connection

        from jobs import lifecycle
        from jobs.kinds import get_kind
        from jobs.lifecycle import Outcome, Submission

        owner = get_user_model().objects.create_user("benchmark")
        submission, worker = Submission(kind=get_kind("bench.noop"), owner_id=owner.pk), uuid4()
        steps = {"accept": Step(), "claim": Step(), "finish": Step()}
        watch = Watch(connection)
        stack.enter_context(connection.execute_wrapper(watch.statement))

        def timed(name: str, move: Callable[[], Any]) -> Any:
            time.sleep(PAUSE_SECONDS)
            watch.step = steps[name]
            begun = time.perf_counter()
            result = move()
            steps[name].whole.append((time.perf_counter() - begun) * 1000)
            return result

        def once() -> None:
            timed("accept", lambda: lifecycle.accept([submission]))
            (job,) = timed("claim", lambda: lifecycle.claim("default", worker))
            timed("finish", lambda: lifecycle.finish([Outcome(job=job)]))

        rounds.print_machine({"database": options.database, "jobs": options.jobs})
        for _ in range(WARM_UP_JOBS):
            once()
        steps.update((name, Step()) for name in list(steps))
        for _ in range(options.jobs):
            once()
        print("\nmilliseconds, medians")
        for name, step in steps.items():
            step.print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
