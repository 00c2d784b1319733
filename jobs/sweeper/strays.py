"""Removes stored files that no row names.

A process may die after it kept a file and before it committed the row, or after it removed a row and before it deleted
the file. A file's name is a UUIDv7 (RFC 9562 §5.7), which tells its age: every storage lists names, not every one knows
times.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from uuid import UUID

from django.core.files.storage import default_storage
from django.db.models import Model

from jobs import files
from jobs.models import Artifact, Upload
from jobs.sql import statements

INTERVAL_SECONDS = 600.0
BATCH = 500
"""Names looked at in one round, in each of the two folders."""
STRAY = timedelta(days=8)
"""So long a file may wait for its row: a handler may attach in a transaction of its own, for as long as it may run."""

_reached: dict[str, str] = {}
"""The last name that was looked at, by folder; the round after the end of a folder begins anew."""


def sweep() -> int:
    """Delete some files that nobody knows. Indexes: the primary keys of uploads and artifacts."""
    before = statements().now() - STRAY
    uploads = [f"uploads/{name}" for name in _next(_listed("uploads")[1], "uploads")]
    folders = [f"artifacts/{name}" for name in _next(_listed("artifacts")[0], "artifacts")]
    artifacts = [f"{folder}/{name}" for folder in folders for name in _listed(folder)[1]]
    removed = _delete_strays(Upload, uploads, before) + _delete_strays(Artifact, artifacts, before)
    for folder in folders:
        files.remove_if_empty(default_storage, folder)
    return removed


def born(name: str) -> tuple[UUID, datetime] | None:
    """Read a file's id from its name, and when it was made; None where the name isn't one of ours."""
    try:
        identity = UUID(PurePosixPath(name).stem)
    except ValueError:
        return None
    return (identity, datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)) if identity.version == 7 else None


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """List a folder of the storage: its folders, and its files."""
    try:
        folders, names = default_storage.listdir(folder)
    except FileNotFoundError:
        return [], []
    return list(folders), list(names)


def _next(names: Iterable[str], folder: str) -> list[str]:
    """Give the names that this round looks at."""
    some = sorted(name for name in names if name > _reached.get(folder, ""))[: BATCH + 1]
    _reached[folder] = some[BATCH - 1] if len(some) > BATCH else ""
    return some[:BATCH]


def _delete_strays(model: type[Model], paths: Iterable[str], before: datetime) -> int:
    """Delete those files that are old and have no row."""
    old = {of[0]: path for path in paths if (of := born(path)) and of[1] < before}
    known = set(model._default_manager.filter(pk__in=old).values_list("pk", flat=True))
    strays = [path for pk, path in old.items() if pk not in known]
    for path in strays:
        files.delete(default_storage, path)
    return len(strays)
