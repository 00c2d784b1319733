"""A fault of a count costs the count, and never what is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
"""So long nothing more is counted after a fault: a full disk is tried, and written of, once a minute."""

P = ParamSpec("P")

_paused_until = 0.0


def harmless(count: Callable[P, None]) -> Callable[P, None]:
    """Have a function that counts log its faults, and then leave all counting be for a while."""

    @wraps(count)
    def count_if_possible(*args: P.args, **kwargs: P.kwargs) -> None:
        global _paused_until
        if time.monotonic() < _paused_until:
            return
        try:
            count(*args, **kwargs)
        except Exception:
            _paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning("Nothing is counted for %.0f s: %s failed", PAUSE_SECONDS, count.__name__, exc_info=True)

    return count_if_possible
