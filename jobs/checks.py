"""Checks at start (`manage.py check`): what would go wrong later is said now."""

from __future__ import annotations

import sqlite3
from typing import Any

from django.core.checks import CheckMessage, Warning, register
from django.db import connection

WAL_RESET_FIX = (3, 51, 3)


@register()
def check_sqlite_version(**_options: Any) -> list[CheckMessage]:
    """Warn where SQLite is older than the fix of the WAL-reset corruption."""
    if connection.vendor != "sqlite" or sqlite3.sqlite_version_info >= WAL_RESET_FIX:
        return []
    return [
        Warning(
            f"SQLite is {sqlite3.sqlite_version}: two processes that write can corrupt its database before 3.51.3.",
            hint="Install the pysqlite3 wheel, or use PostgreSQL by DATABASE_URL.",
            id="jobs.W001",
        )
    ]
