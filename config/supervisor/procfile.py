"""Reading a Procfile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from honcho.environ import parse_procfile


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One copy of one line of the Procfile."""

    kind: str  # the line's name: "worker"
    number: int  # 1, 2, 3 … among its copies
    command: str  # for the shell

    @property
    def name(self) -> str:
        """The copy's own name: "worker.2"."""
        return f"{self.kind}.{self.number}"


def read(procfile: Path, kinds: Iterable[str] | None, counts: Mapping[str, int]) -> list[Entry]:
    """Return the copies to run, in the Procfile's order.

    Args:
        procfile: the file.
        kinds: the lines to take; None takes all.
        counts: how many copies of a line, where not one.

    Raises:
        ValueError: a name that the Procfile doesn't have.
    """
    lines: dict[str, str] = parse_procfile(procfile.read_text(encoding="utf-8")).processes
    wanted = set(lines if kinds is None else kinds)
    if unknown := (wanted | set(counts)) - set(lines):
        raise ValueError(f"{procfile.name} has no {', '.join(sorted(unknown))}; it has {', '.join(lines)}")
    return [
        Entry(kind=kind, number=number, command=command)
        for kind, command in lines.items()
        if kind in wanted
        for number in range(1, counts.get(kind, 1) + 1)
    ]
