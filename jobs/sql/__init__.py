"""The hot statements of the engine, one class a vendor; `lifecycle` is their only caller.

Each is one guarded statement for many jobs that returns the rows it moved, as they are after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection

from jobs.sql.postgresql import PostgreSQL
from jobs.sql.sqlite import SQLite

if TYPE_CHECKING:
    from jobs.sql.statements import Statements

_VENDORS: dict[str, Statements] = {"postgresql": PostgreSQL(), "sqlite": SQLite()}


def statements() -> Statements:
    """Give the statements for the database that is in use."""
    return _VENDORS[connection.vendor]
