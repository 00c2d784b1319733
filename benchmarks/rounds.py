"""Side-by-side measuring: interleaved rounds, their medians, and the machine that they were taken on."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

ROUNDS = 5
PACKAGES = ("Django", "djangorestframework", "celery", "django-celery-results", "channels-redis", "daphne", "requests")


class Failed(Exception):
    """A round did not do what it was to do; its figure would be worth nothing."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side of a comparison."""

    name: str
    measure: Callable[[], float]


@dataclass(kw_only=True)
class Comparison:
    """Figures of several contenders, one a round each."""

    title: str
    unit: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def print(self, us: str, *, beside: Sequence[str]) -> None:
        """Print medians with their spread, and what `us` is of each peer, round by round."""
        print(f"\n{self.title} ({self.unit}; median of {self._rounds} rounds, min to max)")
        for name, values in self.figures.items():
            print(f"  {name:<44}{_spread(values)}")
        for peer in beside:
            self.print_ratio(us, peer)

    def print_ratio(self, us: str, peer: str) -> None:
        """Print what `us` is of a peer: the median of the rounds' own ratios."""
        ratios = [one / other for one, other in zip(self.figures[us], self.figures[peer], strict=True)]
        print(f"  {us + ' / ' + peer:<44}{_spread(ratios)}", flush=True)

    @property
    def _rounds(self) -> int:
        return max(len(values) for values in self.figures.values())


def compare(title: str, unit: str, contenders: Sequence[Contender], rounds: int) -> Comparison:
    """Measure all contenders in each round, another one first each time, so that noise meets them all alike."""
    comparison = Comparison(title=title, unit=unit, figures={each.name: [] for each in contenders})
    for number in range(rounds):
        first = number % len(contenders)
        for each in [*contenders[first:], *contenders[:first]]:
            figure = each.measure()
            comparison.figures[each.name].append(figure)
            print(f"round {number + 1} of {rounds}: {each.name}: {figure:,.1f} {unit}", file=sys.stderr, flush=True)
    return comparison


def percentile(values: Sequence[float], percent: int) -> float:
    """Give the value that so many percent of the values don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def wait_until(condition: Callable[[], bool], timeout_seconds: float, pause_seconds: float = 0.02) -> None:
    """Ask until a condition holds.

    Raises:
        Failed: it didn't in time.
    """
    end = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not done after {timeout_seconds:g} s")
        time.sleep(pause_seconds)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of the options that all programs have."""
    options = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    options.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    return options


def print_machine(more: Mapping[str, object]) -> None:
    """Say what this was measured on; call it once Django is set up.

    Args:
        more: what the program was told to do.
    """
    import redis
    from django.conf import settings

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    server = redis.Redis.from_url(settings.REDIS_URL).info("server")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB")
    print(f"{platform.python_implementation()} {platform.python_version()}, {_database()}")
    print(f"Valkey {server.get('valkey_version', '?')}, " + ", ".join(f"{each} {version(each)}" for each in PACKAGES))
    print(", ".join(f"{name} {value}" for name, value in more.items()))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"load average before: {load}", flush=True)


def _database() -> str:
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sqlite_version()")
            return f"SQLite {cursor.fetchone()[0]} (WAL, synchronous=FULL)"
        cursor.execute("SELECT current_setting('server_version'), current_setting('synchronous_commit')")
        number, is_synchronous = cursor.fetchone()
        return f"PostgreSQL {number} (default settings, synchronous_commit={is_synchronous})"


def _spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    low, high = min(values), max(values)
    return f"{middle:>10,.{digits}f}   {low:,.{digits}f} to {high:,.{digits}f}"
