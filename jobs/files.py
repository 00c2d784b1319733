"""Keeps files so that they are on disk before the row that names them is committed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from django.core.files import File
from django.db.models.fields.files import FieldFile


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
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def measure(file: File[bytes]) -> tuple[int, str]:
    """Read a file once for its size in bytes and its SHA-256, and rewind it."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    for chunk in file.chunks():
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return size, digest.hexdigest()
