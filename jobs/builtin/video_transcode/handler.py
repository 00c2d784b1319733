"""The kind `video.transcode` itself: looked at, encoded, pictured, attached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

from django.conf import settings

from jobs.context import Context, InputFile
from jobs.kinds import kind

from .containers import HEAD_BYTES, MP4, Container, container_of
from .encode import Pace, encode
from .params import CRF_OF_QUALITY, VideoTranscodeParams
from .poster import poster
from .scan import Scan, scan

SCANNED_PERCENT = 2.0
ENCODED_PERCENT = 96.0
POSTER_PERCENT = 98.0
SHORTER_SECONDS = 1.0
"""A result that is shorter than its source by more is told of."""


@kind(
    "video.transcode",
    params=VideoTranscodeParams,
    title="Video for the web",
    description="Turn any usual video into an MP4 that every browser plays (H.264 and AAC), with a poster picture.",
    timeout=3600,
    max_attempts=3,
    # It takes minutes and all processors: another job of the same user always finds a worker.
    max_running_per_user=1,
)
def video_transcode(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Encode the video, attach it and its poster, return what both are like."""
    file: InputFile = params["file"]
    # The temporary files have no names: whatever ends this process ends them.
    with descriptor_of(file) as source, _temporary_file() as target:
        context.progress(0, "Reading the video")
        container = container_of(os.pread(source, HEAD_BYTES, 0))
        found = scan(container, source, context.check_cancelled)
        context.log(f"Read as {container.name}: {_described(found)}")
        _encode(context, params, container, source, target.fileno(), found)
        context.progress(ENCODED_PERCENT, "Choosing a poster")
        made = scan(MP4, _rewound(target.fileno()), context.check_cancelled)
        if made.seconds < found.seconds - SHORTER_SECONDS:
            lost = found.seconds - made.seconds
            context.log(f"The result is {lost:.1f} s shorter: damaged parts were left out", level="warning")
        picture = poster(_rewound(target.fileno()), made.seconds, context.check_cancelled)
        context.progress(POSTER_PERCENT, "Storing the video")
        context.attach("video.mp4", target, "video/mp4", main=True)
        context.attach("poster.jpg", picture, "image/jpeg")
        size = os.fstat(target.fileno()).st_size
    context.progress(100, "Done")
    return made.as_json() | {"size": size, "sourceSize": file.size, "source": found.as_json()}


def _encode(
    context: Context, params: dict[str, Any], container: Container, source: int, target: int, found: Scan
) -> None:
    def report(pace: Pace) -> None:
        share = min(pace.done_seconds / found.seconds, 1.0)
        percent = SCANNED_PERCENT + (ENCODED_PERCENT - SCANNED_PERCENT) * share
        context.progress(percent, _told(pace, found.seconds))

    context.progress(SCANNED_PERCENT, "Encoding")
    complaints = encode(
        container,
        _rewound(source),
        target,
        side=int(params["resolution"]),
        crf=CRF_OF_QUALITY[params["quality"]],
        on_pace=report,
        check=context.check_cancelled,
    )
    if complaints:
        context.log("Parts of the video are damaged; what could be read was encoded", level="warning")


def _told(pace: Pace, whole: float) -> str:
    left = pace.seconds_left(whole)
    if left is None or pace.speed is None:
        return "Encoding"
    minutes, seconds = divmod(round(left), 60)
    return f"Encoding {pace.speed:.1f} times as fast as it plays, {minutes}:{seconds:02} left"


def _described(found: Scan) -> str:
    sound = f"sound {found.audio_codec}" if found.audio_codec else "no sound"
    return f"{found.seconds:,.1f} s, {found.width} x {found.height}, {found.video_codec}, {sound}"


@contextmanager
def descriptor_of(file: InputFile) -> Iterator[int]:
    """Open a param as a plain file; from a storage that is no folder it is fetched first."""
    with file.open() as stream:
        number = _descriptor(stream)
        if number is not None and os.fstat(number).st_size == file.size:
            yield number
            return
        with _temporary_file() as copy:
            shutil.copyfileobj(stream, copy)
            copy.flush()
            yield _rewound(copy.fileno())


def _descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError):  # as the storage's own file has it
        return None


def _temporary_file() -> IO[bytes]:
    return TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR)


def _rewound(descriptor: int) -> int:
    """Set a file that ffmpeg shares with us back to its beginning."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
