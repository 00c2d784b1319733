"""What large bodies cost the web process in memory: an artifact of 1 GB out, an upload of 100 MiB in, one too large.

    python -m benchmarks.bodies [--database sqlite|postgresql] [--megabytes 1000]

"Added" is the highest resident memory while a body goes through, above what the process had before. The artifact is
read by one client as fast as it comes, then by one that stops reading in the middle of it.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks import rounds
from benchmarks.rounds import Failed
from benchmarks.stack import servers

MEGABYTE = 1_000_000
MEBIBYTE = 1024 * 1024
CHUNK = bytes(256 * 1024)
BOUNDARY = "kabar-benchmark"
PAUSE_SECONDS = 3.0
"""How long a client that stops reading stops."""


@dataclass(kw_only=True)
class Memory:
    """The resident memory of a process while something happens."""

    before: int
    highest: int

    @property
    def added(self) -> float:
        """MiB."""
        return (self.highest - self.before) / MEBIBYTE


def resident(pid: int) -> int:
    """Read a process's resident memory, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """Look at a process's memory a hundred times a second."""
    now = resident(pid)
    memory, is_over = Memory(before=now, highest=now), Event()

    def keep_looking() -> None:
        while not is_over.wait(0.01):
            memory.highest = max(memory.highest, resident(pid))

    looking = Thread(target=keep_looking)
    looking.start()
    try:
        yield memory
    finally:
        is_over.set()
        looking.join()


def artifact_url(size: int) -> str:
    """Make a completed job with a file that is all holes, and give the file's path on the web."""
    from django.contrib.auth import get_user_model
    from django.core.files.base import ContentFile
    from django.utils import timezone

    from jobs import lifecycle
    from jobs.artifact_urls import signed_url
    from jobs.files import keep
    from jobs.kinds import get_kind
    from jobs.lifecycle import Outcome, Submission
    from jobs.models import Artifact

    owner, _ = get_user_model().objects.get_or_create(username="reader")
    kind = get_kind("bench.noop")
    lifecycle.accept([Submission(kind=kind, owner_id=owner.pk)])
    (job,) = lifecycle.claim(kind.queue, uuid4())
    row = Artifact(job=job, fence=job.fence, attempt=1, name="big.bin", content_type="application/octet-stream")
    row.size, row.sha256, row.created_at = size, "0" * 64, timezone.now()
    keep(row.file, f"{job.id}/big.bin", ContentFile(b""))
    with Path(row.file.path).open("r+b") as file:
        file.truncate(size)
    row.save()
    lifecycle.finish([Outcome(job=job)])
    url = urlsplit(signed_url(row))
    return f"{url.path}?{url.query}"


def download(port: int, path: str, size: int, pause_after: int | None = None) -> float:
    """Read an artifact, and give the seconds that it took.

    Args:
        port: of the web.
        path: with the signature.
        size: of the file, in bytes.
        pause_after: how many bytes to read before a pause; None for no pause.
    """
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        count, buffer = 0, bytearray(MEBIBYTE)
        while taken := connection.recv_into(buffer):
            count += taken
            if pause_after is not None and count > pause_after:
                pause_after = None
                time.sleep(PAUSE_SECONDS)
    if count <= size:
        raise Failed(f"{count:,} bytes came of {size:,}")
    return time.monotonic() - begun


def upload(port: int, token: str, size: int) -> tuple[int, int]:
    """Submit a form with one file, and give the status of the answer and how many bytes were sent by then."""
    job = json.dumps({"kind": "bench.upload"})
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="job"\r\nContent-Type: application/json\r\n\r\n{job}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            (
                f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
                f"Content-Length: {len(head) + size + len(tail)}\r\nConnection: close\r\n\r\n"
            ).encode()
        )
        connection.sendall(head)
        sent = 0
        connection.setblocking(False)
        while sent < size:
            try:
                if early := connection.recv(4096):
                    return int(early.split()[1]), sent
            except BlockingIOError:
                pass
            connection.setblocking(True)
            connection.sendall(CHUNK[: min(len(CHUNK), size - sent)])
            connection.setblocking(False)
            sent += min(len(CHUNK), size - sent)
        connection.setblocking(True)
        connection.sendall(tail)
        return int(connection.recv(4096).split()[1]), sent


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the artifact")
    options = parser.parse_args()
    with servers(options.database, kabar=["web"]) as running:
        from django.conf import settings
        from django.contrib.auth import get_user_model

        from jobs.credentials import create_token

        pid = running.kabar.pid("web")
        assert pid is not None
        token = create_token(get_user_model().objects.create_user("sender"), "benchmark")
        small, big = artifact_url(MEGABYTE), artifact_url(options.megabytes * MEGABYTE)
        size = options.megabytes * MEGABYTE
        for _ in range(20):  # all threads have begun and all code is loaded
            download(running.port, small, MEGABYTE)
            upload(running.port, token, 1000)
        rounds.print_machine({"database": options.database})
        for name, pause_after in (("as fast as it comes", None), ("with a pause in the middle", size // 2)):
            with watched(pid) as memory:
                seconds = download(running.port, big, size, pause_after)
            print(f"{options.megabytes} MB out, {name}: {memory.added:.1f} MiB added, {seconds:.1f} s", flush=True)
        most = settings.MAX_UPLOAD_BYTES
        with watched(pid) as memory:
            begun = time.monotonic()
            status, _ = upload(running.port, token, most)
        print(f"{most / MEBIBYTE:.0f} MiB in: {status}, {memory.added:.1f} MiB added, {time.monotonic() - begun:.1f} s")
        kept = folder_bytes(settings.DATA)
        with watched(pid) as memory:
            status, sent = upload(running.port, token, 10 * most)
        print(
            f"{10 * most / MEBIBYTE:.0f} MiB in: {status} after {sent / MEBIBYTE:.1f} MiB were sent, "
            f"{memory.added:.1f} MiB added, {folder_bytes(settings.DATA) - kept:,} bytes left on disk"
        )
    return 0


def folder_bytes(folder: Path) -> int:
    """Count the bytes of the files that came in."""
    files = [each for name in ("files", "incoming") for each in (folder / name).rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


if __name__ == "__main__":
    sys.exit(main())
