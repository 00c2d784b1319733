"""Runs ffmpeg: confined, watched, and ended with whoever runs it."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from jobs.failures import JobFailure

from .codecs import DECODERS
from .containers import Container
from .limits import LARGEST_RESULT_BYTES, LONGEST_SIDE, MEMORY_BYTES, MOST_PIXELS, THREADS

TICK_SECONDS = 0.25
"""How long at most until it is asked again whether to go on."""
LAST_WORDS_BYTES = 4096
CONFINED = Path(__file__).with_name("confined.py")
ENVIRONMENT = {"LC_ALL": "C"}
"""Nothing of the worker's own, which holds secrets."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Words of ffmpeg's that tell why, and what its user is told."""

    words: str
    """A regular expression."""
    code: str
    message: str
    retry: bool = False


TOO_LARGE = f"The picture is too large. At most {LONGEST_SIDE} x {MOST_PIXELS // LONGEST_SIDE} pixels are taken."
CAUSES = (
    Cause(words="exceeds specified max pixel count", code="picture_too_large", message=TOO_LARGE),
    Cause(  # an MP4's index names what the file doesn't hold
        words="partial file",
        code="corrupt",
        message="The video is cut off: its end is missing. Send it again, whole.",
    ),
    Cause(
        words="Cannot allocate memory|malloc of size|Resource temporarily unavailable",
        code="too_much_memory",
        message="This video needs more memory than a job gets. Send one with a smaller picture.",
    ),
    Cause(
        words="No space left on device",
        code="no_space",
        message="The server has no space for the result now.",
        retry=True,
    ),
)


class FfmpegError(Exception):
    """How ffmpeg ended and its last words: for the operator's traceback, never for the user."""


def input_of(container: Container, descriptor: int) -> list[str]:
    """Name an open file as ffmpeg's input: read as this format alone, by a protocol that can open nothing else.

    Args:
        container: what the file is read as.
        descriptor: the open file, to be passed to `Ffmpeg` too.
    """
    return [
        *("-protocol_whitelist", "fd", "-format_whitelist", container.demuxer, "-codec_whitelist", DECODERS),
        *("-max_pixels", str(MOST_PIXELS), "-threads", str(THREADS)),
        *("-f", container.demuxer, "-fd", str(descriptor), "-i", "fd:"),
    ]


def program() -> str:
    """Find ffmpeg: `IMAGEIO_FFMPEG_EXE`, that of the wheel, or the system's.

    Raises:
        JobFailure: there is none.
    """
    from imageio_ffmpeg import get_ffmpeg_exe  # an optional extra

    try:
        return str(Path(get_ffmpeg_exe()).resolve())
    except RuntimeError as error:
        raise JobFailure("no_ffmpeg", "The server has no ffmpeg; its operator can install it.") from error


class Ffmpeg:
    """One run, as a context: leaving it ends the process, whatever happened.

    Args:
        arguments: after the ones that every run gets.
        descriptors: open files that it may use, by their numbers.
        cpu_seconds: how much of the processors' time it may take.
        check: called at least four times a second; whatever it raises ends the run.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        descriptors: Sequence[int],
        cpu_seconds: int,
        check: Callable[[], None],
    ) -> None:
        limits = [os.getpid(), MEMORY_BYTES, cpu_seconds, 2 * LARGEST_RESULT_BYTES]
        self._command = [
            *(sys.executable, "-I", "-S", str(CONFINED), *map(str, limits), program()),
            *("-hide_banner", "-nostdin", "-loglevel", "error", "-max_alloc", str(MEMORY_BYTES // 4)),
            *arguments,
        ]
        self._descriptors = descriptors
        self._check = check
        self._last_words = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self._descriptors,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe  # noqa: S101 - both are pipes
            pipe.close()

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self._last_words.decode(errors="replace")

    def output(self) -> Iterator[bytes]:
        """Give what it writes to stdout, piece by piece, until it ends.

        Raises:
            JobFailure: it didn't end well.
        """
        stdout, stderr = self._process.stdout, self._process.stderr
        with selectors.DefaultSelector() as selector:
            for pipe in (stdout, stderr):
                assert pipe  # noqa: S101 - both are pipes
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(TICK_SECONDS):
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is stdout:
                        yield piece
                    else:
                        self._last_words = (self._last_words + piece)[-LAST_WORDS_BYTES:]
                self._check()
        self._check_end(self._process.wait())

    def lines(self) -> Iterator[bytes]:
        """Give what it writes to stdout, line by line, without their ends.

        Raises:
            JobFailure: it didn't end well.
        """
        rest = b""
        for piece in self.output():
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines

    def check_words(self) -> None:
        """Raise where what it has said has a cause that is known; it may go on and end well in spite of it.

        Raises:
            JobFailure: from `CAUSES`.
        """
        for each in CAUSES:
            if re.search(each.words, self.last_words):
                raise JobFailure(each.code, each.message, retry=each.retry) from FfmpegError(self.last_words)

    def _check_end(self, code: int) -> None:
        if code == 0:
            return
        self.check_words()
        cause = FfmpegError(f"ffmpeg ended with {code}: {self.last_words}")
        if code < 0:
            raise JobFailure("ffmpeg_killed", "The program that reads the video crashed.", retry=True) from cause
        message = "The video is damaged or cut off, and can't be read. Check that it plays, and send it again."
        raise JobFailure("corrupt", message) from cause
