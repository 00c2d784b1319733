"""What `video.transcode` is asked with."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from jobs.kinds import UploadField

CRF_OF_QUALITY = {"high": 20, "medium": 23, "low": 28}
"""x264's constant rate factor: each 6 less is about twice the size."""


class VideoTranscodeParams(serializers.Serializer[Any]):
    """The video, and how large and how good the result should be."""

    file = UploadField(help_text="The video: MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV or Ogg, of up to 4 hours.")
    resolution = serializers.ChoiceField(
        choices=[("1080", "1080p"), ("720", "720p"), ("480", "480p")],
        default="1080",
        help_text="The shorter side of the picture is made this many pixels at most; nothing is enlarged.",
    )
    quality = serializers.ChoiceField(
        choices=[("high", "High"), ("medium", "Medium"), ("low", "Low")],
        default="medium",
        help_text="The better, the larger the file.",
    )
