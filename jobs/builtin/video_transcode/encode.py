"""Makes the MP4, and tells how far it is from ffmpeg's `-progress` output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.failures import JobFailure

from .containers import Container
from .ffmpeg import Ffmpeg, input_of
from .limits import ENCODE_CPU_SECONDS, LARGEST_RESULT_BYTES, LONGEST_SECONDS, LONGEST_SIDE, THREADS

PRESET = "veryfast"
"""Of x264: half the time of `medium`, for files that are about a tenth larger."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far the encoding is."""

    done_seconds: float
    """Of the video."""
    speed: float | None
    """How many seconds of the video are encoded in a second; None until that is known."""

    def seconds_left(self, whole: float) -> float | None:
        """Say how much longer it will take, given the video's whole length in seconds."""
        return max(0.0, whole - self.done_seconds) / self.speed if self.speed else None


def encode(
    container: Container,
    source: int,
    target: int,
    *,
    side: int,
    crf: int,
    on_pace: Callable[[Pace], None],
    check: Callable[[], None],
) -> str:
    """Encode a video as H.264 and AAC in an MP4 whose index stands first.

    Only picture and sound are taken: what else the file tells (place, device, chapters, subtitles) stays behind.

    Args:
        container: what the source is read as.
        source: the open file, at its beginning.
        target: an open empty file.
        side: pixels of the shorter side, at most.
        crf: x264's constant rate factor.
        on_pace: told about twice a second.
        check: raises where it should stop.

    Returns:
        What ffmpeg complained of; empty where all was well.

    Raises:
        JobFailure: it can't be decoded, or the result is too large.
    """
    arguments = [
        *input_of(container, source),
        *("-map", "0:V:0", "-map", "0:a:0?", "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-vf", fitted(side), "-filter_threads", "1", "-fps_mode", "vfr"),
        *("-c:v", "libx264", "-preset", PRESET, "-crf", str(crf), "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-b:a", "128k", "-ac", "2", "-threads", str(THREADS)),
        *("-t", str(LONGEST_SECONDS), "-fs", str(LARGEST_RESULT_BYTES)),
        *("-progress", "pipe:1", "-stats_period", "0.5"),
        # By this name Linux opens the file anew, for the second pass of faststart reads while it writes.
        *("-movflags", "+faststart", "-f", "mp4", "-y", f"file:/dev/fd/{target}"),
    ]
    reader = PaceReader()
    with Ffmpeg(arguments, descriptors=[source, target], cpu_seconds=ENCODE_CPU_SECONDS, check=check) as run:
        for line in run.lines():
            if pace := reader.add(line):
                on_pace(pace)
    if reader.bytes_written >= LARGEST_RESULT_BYTES:
        message = (
            f"The result is larger than {LARGEST_RESULT_BYTES >> 20:,} MiB. Ask for a lower resolution or quality."
        )
        raise JobFailure("output_too_large", message)
    return run.last_words


def fitted(side: int) -> str:
    """Write the filters that make pixels square, sides even, and the shorter side no longer than asked."""
    wide, high = f"min(iw*sar,{LONGEST_SIDE})", "ih"
    shorter = f"max(2,trunc(min({side},min(iw,ih))/2)*2)"
    return (
        f"scale=w='max(2,{wide})':h='{high}',setsar=1,"
        f"scale=w='if(gte(iw,ih),-2,{shorter})':h='if(gte(iw,ih),{shorter},-2)',setsar=1"
    )


class PaceReader:
    """Reads the lines `name=value` of `-progress`; each block ends with `progress=`."""

    def __init__(self) -> None:
        self._block: dict[bytes, bytes] = {}
        self._done_seconds = 0.0
        self.bytes_written = 0

    def add(self, line: bytes) -> Pace | None:
        """Take a line in, and tell the pace where a block ends."""
        name, _, value = line.partition(b"=")
        self._block[name] = value.strip()
        if name != b"progress":
            return None
        block, self._block = self._block, {}
        self._done_seconds = max(self._done_seconds, _number(block.get(b"out_time_us")) / 1e6)
        self.bytes_written = max(self.bytes_written, int(_number(block.get(b"total_size"))))
        speed = _number(block.get(b"speed", b"").removesuffix(b"x"))
        return Pace(done_seconds=self._done_seconds, speed=speed or None)


def _number(text: bytes | None) -> float:
    """Read a number; 0 for `N/A`, which stands where nothing is known yet."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
