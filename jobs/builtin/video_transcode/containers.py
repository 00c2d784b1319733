"""Which files are taken, and as what ffmpeg is to read each: decided by the first bytes, never by ffmpeg's own guess.

Whatever isn't listed isn't opened. Playlists and scripts (HLS, DASH, concat, SDP) are what a hostile file would be:
ffmpeg would follow them to files of the server and to addresses in its network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.failures import JobFailure

HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Container:
    """A file format that holds video."""

    name: str
    """For people."""
    demuxer: str
    """ffmpeg's name of its only reader."""
    head: re.Pattern[bytes]
    """Matches the first bytes of each such file."""


def _container(name: str, demuxer: str, head: bytes) -> Container:
    return Container(name=name, demuxer=demuxer, head=re.compile(head, re.DOTALL))


MP4 = _container("MP4 or MOV", "mov", rb".{4}(ftyp|moov|mdat|free|skip|wide|pnot)")
CONTAINERS = (
    MP4,
    _container("Matroska or WebM", "matroska", rb"\x1a\x45\xdf\xa3"),
    _container("AVI", "avi", rb"RIFF.{4}AVI "),
    _container("MPEG program stream", "mpeg", rb"\x00\x00\x01\xba"),
    # Packets of 188 bytes, on discs and cameras with a time code of 4 bytes before each.
    _container("MPEG transport stream", "mpegts", rb"(\x47.{187}){2}\x47|(.{4}\x47.{187}){2}.{4}\x47"),
    _container("Flash video", "flv", rb"FLV\x01"),
    _container("Ogg", "ogg", rb"OggS"),
    _container("Windows Media", "asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
)
STILL_PICTURES = re.compile(rb".{4}ftyp(heic|heix|heim|heis|mif1|msf1|avif|avis)", re.DOTALL)
"""Photographs in the boxes of MP4."""
PLAYLISTS = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat|file\s|v=0\r?\n|<\?xml.*<(MPD|smil)\b|<(MPD|smil)\b)", re.DOTALL
)
TAKEN = "Send an MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV or Ogg file."


def container_of(head: bytes) -> Container:
    """Tell what a file is.

    Args:
        head: its first `HEAD_BYTES`.

    Raises:
        JobFailure: it is no video (`not_a_video`).
    """
    if not head:
        raise JobFailure("not_a_video", f"The file is empty. {TAKEN}")
    if PLAYLISTS.match(head):
        raise JobFailure("not_a_video", "This is a playlist, which only names videos. Send the video itself.")
    found = next((each for each in CONTAINERS if each.head.match(head)), None)
    if found is None or STILL_PICTURES.match(head):
        raise JobFailure("not_a_video", f"This is not a video of a kind that is taken. {TAKEN}")
    return found
