"""How long a claim takes, and a submission, while a crowd of other jobs grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from benchmarks.backlog import submit
from benchmarks.claims.plans import HAND, plan_of_claim
from benchmarks.claims.shapes import Shape, begin, grow
from benchmarks.hand.finding import Finding, check
from benchmarks.rounds import Failed, percentile

if TYPE_CHECKING:  # at run time only once Django is set up
    from jobs.models import Job

Result = TypeVar("Result")

STEEPEST = 2.0
"""What the median beside the largest crowd may be of that beside the smallest; this machine's own noise is a third."""
NOISE_MS = 0.5
"""So much more is no fault, whatever the ratio."""
COLUMNS = ("claim 1", f"claim {HAND}", "submit 1", f"end {HAND}")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Milliseconds of each measured call beside a crowd of some size."""

    crowd: int
    times: dict[str, list[float]] = field(default_factory=lambda: {each: [] for each in COLUMNS})

    def p50(self, column: str) -> float:
        return percentile(self.times[column], 50)

    def line(self) -> str:
        """Write p50 and p99 of each column."""
        cells = [
            f"{percentile(times, 50):>9.2f}{percentile(times, 99):>8.2f}" if times else f"{'-':>9}{'-':>8}"
            for times in self.times.values()
        ]
        return f"{self.crowd:>12,}" + "".join(cells)


def curve(shape: Shape, sizes: Sequence[int], samples: int) -> Finding:
    """Measure beside a crowd of each size, smallest first, and see whether the last is as quick as the first.

    Args:
        shape: of the crowd.
        sizes: of the crowd, rising.
        samples: how often a claim of one job is measured; hands half as often.
    """
    template, present = begin(shape), 1
    points = []
    for size in sizes:
        grow(shape, template, present, size)
        present = size
        points.append(_measure(shape, size, samples))
        print(points[-1].line(), file=sys.stderr, flush=True)
    return Finding(
        title=f"Jobs {shape.name}",
        lines=[
            f"{'jobs':>12}" + "".join(f"{each:>17}" for each in COLUMNS) + "   (ms: p50 and p99)",
            *(each.line() for each in points),
            *plan_of_claim(shape.kind),
        ],
        faults=[fault for column in COLUMNS for fault in _steepness(column, points[0], points[-1])],
    )


def _steepness(column: str, first: Point, last: Point) -> list[str]:
    if not first.times[column]:
        return []
    low, high = first.p50(column), last.p50(column)
    return check(f"{column} went from {low:.2f} to {high:.2f} ms", high <= max(STEEPEST * low, low + NOISE_MS))


def _measure(shape: Shape, size: int, samples: int) -> Point:
    """Claim and end and submit, so that as many jobs stand in line at the end as at the beginning."""
    from jobs import lifecycle
    from jobs.kinds import get_kind

    point, worker, kind = Point(crowd=size), uuid4(), get_kind(shape.kind)
    owners = cycle(shape.owners)

    def claim(count: int) -> list[Job]:
        hand = lifecycle.claim(kind.queue, worker, count, [kind.name])
        if len(hand) != (0 if shape.is_paused else count):
            raise Failed(f"{len(hand)} jobs were claimed in place of {count}")
        return hand

    for _ in range(samples):
        hand = _timed(point.times["claim 1"], partial(claim, 1))
        if hand:
            _end(hand)
        _timed(point.times["submit 1"], partial(submit, kind.name, 1, next(owners)))
    for _ in range(samples // 2):
        hand = _timed(point.times[f"claim {HAND}"], partial(claim, HAND))
        if hand:
            _timed(point.times[f"end {HAND}"], partial(_end, hand))
            submit(kind.name, HAND, next(owners))
    return point


def _timed(times: list[float], call: Callable[[], Result]) -> Result:
    begun = time.perf_counter()
    result = call()
    times.append((time.perf_counter() - begun) * 1000)
    return result


def _end(hand: Sequence[Job]) -> None:
    """Have the handlers of a hand run to their ends, as a worker does, but without handlers."""
    from jobs import lifecycle
    from jobs.lifecycle import Outcome
    from jobs.models import Status

    outcomes = []
    for job in hand:
        began_at = time.monotonic()
        begun = lifecycle.foresee_begin(job) if job.status == Status.PENDING else None
        outcomes.append(Outcome(job=job, begun=begun, began_at=began_at))
    if len(lifecycle.finish(outcomes)) != len(hand):
        raise Failed("a job was lost")
