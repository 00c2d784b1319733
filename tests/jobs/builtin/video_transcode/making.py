"""Makes the videos of the tests with ffmpeg's own sources, and remembers what a handler said."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from jobs.builtin.video_transcode.ffmpeg import program
from jobs.builtin.video_transcode.handler import video_transcode
from tests.local_file import LocalFile

SMALL = "128x72"
QUICK = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")


def ffmpeg(*arguments: str) -> bytes:
    """Run ffmpeg unconfined, and give what it writes to stdout."""
    command = [program(), "-hide_banner", "-nostdin", "-loglevel", "error", "-y", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout


def make_video(path: Path, *options: str, size: str = SMALL, seconds: float = 1, has_sound: bool = True) -> Path:
    """Make a video of moving bars and a tone.

    Args:
        path: where to.
        options: how it is encoded; as H.264 and AAC if left out.
        size: of the picture.
        seconds: how long it is.
        has_sound: whether there is the tone.
    """
    picture = ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={seconds}")
    sound = ("-f", "lavfi", "-i", f"sine=duration={seconds}") if has_sound else ()
    ffmpeg(*picture, *sound, "-pix_fmt", "yuv420p", *(options or QUICK), str(path))
    return path


@dataclass(frozen=True, kw_only=True)
class RemoteFile(LocalFile):
    """A file parameter of a storage that gives no plain files."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.path.read_bytes())


@dataclass(kw_only=True)
class RecordingContext:
    """What `jobs.context.Context` offers a handler, kept in lists."""

    stop_at_percent: float = 101.0
    percents: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    main_file: str = ""

    def progress(self, percent: float, message: str) -> None:
        self.check_cancelled()
        self.percents.append(percent)
        self.messages.append(message)

    def log(self, message: str, level: str = "info") -> None:
        self.lines.append((level, message))

    def attach(self, name: str, source: bytes | IO[bytes], content_type: str, *, main: bool = False) -> None:
        if not isinstance(source, bytes):
            source.seek(0)
            source = source.read()
        self.files[name], self.types[name] = source, content_type
        self.main_file = name if main else self.main_file

    def check_cancelled(self) -> None:
        if self.percents and self.percents[-1] >= self.stop_at_percent:
            raise CancelledForTestError


class CancelledForTestError(Exception):
    """What the engine raises inside a handler that should stop."""


def transcode(
    path: Path, context: RecordingContext | None = None, *, is_remote: bool = False, **params: str
) -> dict[str, Any]:
    """Run the handler on a file."""
    file = RemoteFile(path=path) if is_remote else LocalFile(path=path)
    given: Any = context or RecordingContext()
    result: dict[str, Any] = video_transcode(given, {"file": file, "resolution": "1080", "quality": "medium"} | params)
    return result


def children_of(pid: int) -> list[int]:
    """List the processes that a process has started and not yet seen end."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be seen off doesn't."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
