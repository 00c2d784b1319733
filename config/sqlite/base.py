"""Django's SQLite backend, whose connections take their turn at the turnstile before a transaction that writes.

`atomic()` is always `BEGIN IMMEDIATE` here, so it is there that a turn begins; it ends with the transaction. A single
statement outside `atomic()` waits as SQLite does, outside the queue.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base

from config.sqlite.turnstile import Turnstile

USUAL_BUSY_SECONDS = 5.0
"""What Python's sqlite3 waits where OPTIONS name no timeout."""
STUCK_SECONDS = 0.5
"""So often one who waits looks whether the queue stands still without anybody writing; then one goes past it."""


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that begins to write only in its turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: Django's own arguments, handed on
        super().__init__(*args, **kwargs)
        self._busy_seconds: float | None = None
        self._turnstile: Turnstile | None = None  # a database in memory has none

    @property
    def busy_seconds(self) -> float:
        """How long this connection waits for other writers before "database is locked"; it outlives a reconnect."""
        if self._busy_seconds is not None:
            return self._busy_seconds
        return float(self.settings_dict["OPTIONS"].get("timeout", USUAL_BUSY_SECONDS))

    @busy_seconds.setter
    def busy_seconds(self, seconds: float) -> None:
        self._busy_seconds = seconds
        if self.connection is not None and not self.closed_in_transaction:
            self._set_busy_timeout()

    def _set_busy_timeout(self) -> None:
        self.connection.execute(f"PRAGMA busy_timeout = {round(self.busy_seconds * 1000)}")

    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "timeout": self.busy_seconds}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:  # Any: the driver's connection, as Django has it
        connection = super().get_new_connection(conn_params)
        # SQLite's own name for the file is the same by whatever link or relative path it was opened; in memory it's "".
        ((_, _, path),) = connection.execute("PRAGMA database_list").fetchall()
        self._turnstile = Turnstile(Path(path)) if path else None
        return connection

    def _start_transaction_under_autocommit(self) -> None:
        self._take_turn()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]  # the stubs leave these four out
        finally:
            self._leave_if_done()

    def _commit(self) -> None:
        try:
            super()._commit()  # type: ignore[misc]
        finally:
            self._leave_if_done()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._leave_if_done()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            if self._turnstile is not None:
                self._turnstile.close()

    def _take_turn(self) -> None:
        if self._turnstile is None:
            return
        with self.wrap_database_errors:
            try:
                is_ours = self._waited_for(self._turnstile)
            except OSError as error:
                raise self.Database.OperationalError(f"unable to open {error.filename}: {error.strerror}") from error
            if not is_ours:
                locked = self.Database.OperationalError("database is locked")
                locked.sqlite_errorcode, locked.sqlite_errorname = 5, "SQLITE_BUSY"
                raise locked

    def _waited_for(self, turnstile: Turnstile) -> bool:
        deadline = time.monotonic() + self.busy_seconds
        while (rest := deadline - time.monotonic()) > STUCK_SECONDS:
            if turnstile.enter(STUCK_SECONDS) or self._nobody_writes():
                return True
        return turnstile.enter(max(rest, 0.0))

    def _nobody_writes(self) -> bool:
        """Ask SQLite's own lock, which is free while somebody in the queue is halted (SIGSTOP) and doesn't move on."""
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except self.Database.OperationalError:
            return False
        finally:
            self._set_busy_timeout()
        self.connection.execute("ROLLBACK")
        return True

    def _leave_if_done(self) -> None:
        """Let the next one write if no transaction is open."""
        if self._turnstile is not None and self._turnstile.is_held and not self.connection.in_transaction:
            self._turnstile.leave()
