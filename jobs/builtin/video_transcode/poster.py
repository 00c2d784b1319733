"""Takes the poster: one telling frame of the finished MP4."""

from __future__ import annotations

from collections.abc import Callable

from .containers import MP4
from .ffmpeg import Ffmpeg, input_of
from .limits import POSTER_CPU_SECONDS

LATEST_SECONDS = 10.0
FRAMES = 30
"""The one among so many that is most like the others is taken, so seldom a blank one or a flash."""


def poster(video: int, seconds: float, check: Callable[[], None]) -> bytes:
    """Make a JPEG of a frame near the beginning.

    Args:
        video: the open MP4, at its beginning.
        seconds: its length.
        check: raises where it should stop.

    Raises:
        JobFailure: it can't be read.
    """
    arguments = [
        *("-ss", f"{min(seconds / 10, LATEST_SECONDS):.3f}", *input_of(MP4, video)),
        *("-map", "0:v:0", "-vf", f"thumbnail={FRAMES}", "-frames:v", "1"),
        *("-c:v", "mjpeg", "-q:v", "3", "-f", "image2pipe", "pipe:1"),
    ]
    with Ffmpeg(arguments, descriptors=[video], cpu_seconds=POSTER_CPU_SECONDS, check=check) as run:
        return b"".join(run.output())
