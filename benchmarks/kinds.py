"""What the benchmarks have Kabar run."""

from __future__ import annotations

from typing import Any

from jobs.context import Context
from jobs.kinds import kind


@kind("bench.noop")
def noop(context: Context, params: dict[str, Any]) -> None:
    """Do nothing."""
