"""Python's collection of garbage, which in a process as large as this takes a tenth of a second at times."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Put the collection off: for a transaction that others wait for, or that makes much and drops little."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
