"""How often something may be done, as operators write it: `600/min`."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "day": 86_400}
WRITTEN = re.compile(r"(\d{1,9})\s*/\s*(\d{0,6})\s*([a-z]+)")


class InvalidRate(ValueError):
    """This is no rate; the message tells how one looks."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many in each window."""

    quota: int
    window_seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate | None:
        """Read a rate such as `600/min` or `100/10s`; nothing is none.

        Raises:
            InvalidRate: it isn't one.
        """
        if not text.strip():
            return None
        match = WRITTEN.fullmatch(text.strip().lower())
        quota = int(match[1]) if match else 0
        window_seconds = int(match[2] or 1) * UNITS.get(match[3], 0) if match else 0
        if quota == 0 or window_seconds == 0:
            raise InvalidRate(f"{text!r} is no rate; write it like 600/min or 100/10s.")
        return cls(quota=quota, window_seconds=window_seconds)
