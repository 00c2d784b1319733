"""Django's secret key, made once and kept in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
import stat
import warnings
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

# Django's deployment check asks for 50 characters; this makes 64.
KEY_BYTES = 48
SHORTEST_KEY = 50


def load_or_make(path: Path) -> str:
    """Return the key that `path` keeps, making it first where there is none.

    Several processes may call this at once: all of them return the same key.

    Args:
        path: the key's file; its folder must exist.

    Raises:
        ImproperlyConfigured: the file holds no usable key, or can't be read or made.
    """
    try:
        if not path.exists():
            _make(path)
        _warn_if_readable_by_others(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"The secret key at {path} can't be read or made: {error}. Give this user that file, or set SECRET_KEY."
        ) from error
    if len(key) < SHORTEST_KEY:
        raise ImproperlyConfigured(
            f"The secret key at {path} has {len(key)} characters, less than {SHORTEST_KEY}. "
            "Remove the file to have a new one made (sessions and signed URLs end), or set SECRET_KEY."
        )
    return key


def _make(path: Path) -> None:
    # The key is whole on disk before its name appears, and a link, unlike a rename, fails where the name is
    # taken: the loser of a race reads the winner's whole key, never half of one.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _warn_if_readable_by_others(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.warn(
            f"The secret key at {path} can be read by other users; `chmod 600 {path}` hides it.", stacklevel=3
        )
