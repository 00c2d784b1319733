"""Measures a video without decoding it: its streams and its true length.

What a container says of its length may be missing (a browser's recordings) or a lie, so every packet is looked at.
ffmpeg's `framecrc` format lists them in lines that are made to be read by programs; there is no ffprobe in the wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from jobs.failures import JobFailure

from .codecs import AUDIO_CODECS, VIDEO_CODECS
from .containers import Container
from .ffmpeg import TOO_LARGE, Ffmpeg, input_of
from .limits import LONGEST_SECONDS, LONGEST_SIDE, MOST_PIXELS, SCAN_CPU_SECONDS

NO_TIME = -(2**63)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What was found."""

    video_codec: str
    audio_codec: str | None
    width: int
    height: int
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Write it as the job's result does."""
        return {
            "duration": round(self.seconds, 2),
            "width": self.width,
            "height": self.height,
            "videoCodec": self.video_codec,
            "audioCodec": self.audio_codec,
        }


def scan(container: Container, descriptor: int, check: Callable[[], None]) -> Scan:
    """Look at each packet of the first video and the first audio stream.

    Args:
        container: what the file is read as.
        descriptor: the open file, at its beginning.
        check: raises where it should stop.

    Raises:
        JobFailure: it can't be read (`corrupt`), or isn't taken (`no_video_stream`, `unknown_codec`,
            `picture_too_large`, `too_long`).
    """
    # V: pictures that are attached, such as a song's cover, are none.
    arguments = [*input_of(container, descriptor), "-map", "0:V:0?", "-map", "0:a:0?", "-c", "copy"]
    packets = _Packets()
    with Ffmpeg(
        [*arguments, "-f", "framecrc", "pipe:1"],
        descriptors=[descriptor],
        cpu_seconds=SCAN_CPU_SECONDS,
        check=check,
    ) as run:
        for line in run.lines():
            packets.add(line)
            if packets.seconds > LONGEST_SECONDS:
                raise JobFailure("too_long", f"The video is longer than {LONGEST_SECONDS / 3600:g} hours. Send a part.")
        run.check_words()
    return packets.checked()


class _Packets:
    """Reads the lines of framecrc: `#name stream: value` first, then `stream, dts, pts, duration, …` a packet."""

    def __init__(self) -> None:
        self._facts: dict[tuple[str, str], str] = {}
        self._ticks: dict[bytes, float] = {}
        self.seconds = 0.0

    def add(self, line: bytes) -> None:
        if line.startswith(b"#"):
            name, _, value = line.decode(errors="replace").partition(": ")
            name, _, stream = name[1:].partition(" ")
            self._facts[name, stream] = value
            if name == "tb":
                self._ticks[stream.encode()] = float(Fraction(value))
            return
        stream_number, dts, pts, duration = line.split(b",", 4)[:4]
        at = int(pts)
        if at == NO_TIME:
            at = int(dts)
        end = (at + int(duration)) * self._ticks[stream_number]
        if end > self.seconds:
            self.seconds = end

    def checked(self) -> Scan:
        by_type = {kind: stream for (name, stream), kind in self._facts.items() if name == "media_type"}
        video, audio = by_type.get("video"), by_type.get("audio")
        if video is None:
            what = "only sound" if audio else "no picture"
            raise JobFailure("no_video_stream", f"The file holds {what}, and no video.")
        width, height = map(int, self._facts.get(("dimensions", video), "0x0").split("x"))
        found = Scan(
            video_codec=self._facts["codec_id", video],
            audio_codec=self._facts["codec_id", audio] if audio else None,
            width=width,
            height=height,
            seconds=self.seconds,
        )
        if found.video_codec not in VIDEO_CODECS:
            raise JobFailure("unknown_codec", f"The picture is encoded as {found.video_codec}, which isn't taken.")
        if found.audio_codec and found.audio_codec not in AUDIO_CODECS:
            raise JobFailure("unknown_codec", f"The sound is encoded as {found.audio_codec}, which isn't taken.")
        if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
            raise JobFailure("picture_too_large", TOO_LARGE)
        if not (width and height and found.seconds):
            raise JobFailure("corrupt", "The video holds no picture that can be read. Check that it plays.")
        return found
