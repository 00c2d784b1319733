"""The kinds that come with Kabar."""

from importlib.util import find_spec

from jobs.builtin import countdown
from jobs.builtin.csv_report import handler

__all__ = ["countdown", "handler"]

HAS_FFMPEG = find_spec("imageio_ffmpeg") is not None
"""Whether the extra `video` is installed; without it nobody is offered what would always fail."""

if HAS_FFMPEG:
    from jobs.builtin.video_transcode import handler as video_handler

    __all__ += ["video_handler"]
