"""Keeps files so that they are on disk before the row that names them is committed, and clears them away."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path

from django.core.files import File
from django.core.files.storage import Storage
from django.db.models.fields.files import FieldFile

logger = logging.getLogger(__name__)


def keep(place: FieldFile, name: str, content: File[bytes]) -> None:
    """Store a file under a name and, where the storage is a folder, see it written to the disk.

    Args:
        place: the row's field; the row itself isn't saved.
        name: inside the storage.
        content: what to keep.
    """
    place.save(name, content, save=False)
    try:
        path = Path(place.path)
    except NotImplementedError:  # a storage elsewhere answers only when it has the file
        return
    sync(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """See a file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(storage: Storage, name: str) -> None:
    """Delete a stored file; one that is gone already is fine, one that resists is said and left."""
    try:
        storage.delete(name)
    except OSError:
        logger.warning("A stored file could not be deleted", exc_info=True)


def remove_if_empty(storage: Storage, folder: str) -> None:
    """Remove a folder of a storage that has folders, if nothing is in it."""
    with suppress(NotImplementedError, OSError):  # a storage elsewhere; it isn't empty, or is gone
        Path(storage.path(folder)).rmdir()


def measure(file: File[bytes]) -> tuple[int, str]:
    """Read a file once for its size in bytes and its SHA-256, and rewind it."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    for chunk in file.chunks():
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return size, digest.hexdigest()
