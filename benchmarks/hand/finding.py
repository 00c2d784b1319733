"""What a part has found out, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one part has found."""

    title: str
    lines: Sequence[str]
    """What was seen."""
    faults: Sequence[str]
    """What of it may not be; empty where all is well."""

    def print(self) -> None:
        """Print it, the faults last."""
        print(f"\n{self.title}: {'does NOT hold' if self.faults else 'holds'}")
        for line in self.lines:
            print(f"  {line}")
        for fault in self.faults:
            print(f"  FAULT: {fault}")
        print(end="", flush=True)


def check(what: str, holds: bool) -> list[str]:
    """Give the fault that there is if something doesn't hold."""
    return [] if holds else [what]
