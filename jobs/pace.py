"""How long each kind's handler took lately, in this process: what decides the size of a hand."""

from __future__ import annotations

from collections.abc import Collection

QUICK_SECONDS = 0.02
"""A kind that takes longer is claimed one by one."""
HAND_SECONDS = 0.025
"""How much work a hand may hold; an urgent job waits for no more than that."""
BRISK_SECONDS = 0.25
"""While a kind runs that takes no longer, what comes next is reserved; a longer one hardly notices the pause."""
WEIGHT = 0.2
"""Of the newest run in the moving average."""
SHORTEST_SECONDS = 1e-6


class Pace:
    """Moving averages of run times, in seconds."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, kind: str, seconds: float) -> None:
        """Take a run into account."""
        before = self._seconds.get(kind, seconds)
        self._seconds[kind] = before + WEIGHT * (seconds - before)

    def quick_kinds(self, count: int = 1) -> list[str]:
        """List the kinds of which so many jobs may lie in a hand; one that hasn't run here yet may not."""
        return self._kinds_within(min(QUICK_SECONDS, HAND_SECONDS / count))

    def seconds(self, kind: str) -> float | None:
        """Say how long a kind took lately, in seconds; None of one that hasn't run here yet."""
        return self._seconds.get(kind)

    def brisk_kinds(self) -> list[str]:
        """List the kinds of which one may lie in wait behind a running one."""
        return self._kinds_within(BRISK_SECONDS)

    def _kinds_within(self, most: float) -> list[str]:
        return [kind for kind, seconds in self._seconds.copy().items() if seconds <= most]

    def most(self, kinds: Collection[str]) -> int:
        """Say how many jobs of these kinds make a hand's work."""
        longest = max((self._seconds.get(each, 0.0) for each in kinds), default=0.0)
        return int(HAND_SECONDS / max(longest, SHORTEST_SECONDS))
