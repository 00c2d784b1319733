"""The kind `video.transcode`: what comes out, how it tells of its way, and that nothing outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs.builtin.video_transcode import encode, scan
from jobs.builtin.video_transcode import ffmpeg as running
from jobs.builtin.video_transcode.encode import PaceReader
from jobs.builtin.video_transcode.handler import video_transcode
from jobs.builtin.video_transcode.limits import MEMORY_BYTES
from jobs.builtin.video_transcode.params import VideoTranscodeParams
from jobs.failures import JobFailure
from jobs.kinds import get_kind
from tests.jobs.builtin.video_transcode.making import (
    QUICK,
    CancelledForTestError,
    RecordingContext,
    children_of,
    ffmpeg,
    is_alive,
    make_video,
    transcode,
)
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[4]


def test_the_kind_is_declared() -> None:
    kind = get_kind("video.transcode")
    assert kind.handler is video_transcode
    assert kind.file_params == ["file"]
    assert (kind.timeout_seconds, kind.max_attempts, kind.max_running_per_user) == (3600, 3, 1)


def test_a_video_becomes_an_mp4_and_a_poster(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", "-c:v", "mpeg4", "-c:a", "mp3", size="1280x720", seconds=3)
    context = RecordingContext()
    result = transcode(source, context, resolution="480")
    assert context.main_file == "video.mp4"
    assert context.types == {"video.mp4": "video/mp4", "poster.jpg": "image/jpeg"}
    video, picture = context.files["video.mp4"], context.files["poster.jpg"]
    assert 0 < video.index(b"moov") < video.index(b"mdat")  # it plays before it is all there
    assert picture.startswith(b"\xff\xd8\xff")
    assert result.pop("duration") == pytest.approx(3, abs=0.1)
    found = result.pop("source")
    assert found.pop("duration") == pytest.approx(3, abs=0.1)
    assert found == {"width": 1280, "height": 720, "videoCodec": "mpeg4", "audioCodec": "mp3"}
    assert result == {
        "width": 854,
        "height": 480,
        "videoCodec": "h264",
        "audioCodec": "aac",
        "size": len(video),
        "sourceSize": source.stat().st_size,
    }
    assert context.lines == [("info", "Read as Matroska or WebM: 3.0 s, 1280 x 720, mpeg4, sound mp3")]


def test_progress_rises_from_0_to_100_and_tells_the_time_left(tmp_path: Path) -> None:
    context = RecordingContext()
    transcode(make_video(tmp_path / "a.mp4", size="640x360", seconds=40), context)
    assert context.percents == sorted(context.percents)
    assert (context.percents[0], context.percents[-1]) == (0, 100)
    assert len({each for each in context.percents if 2 < each < 96}) >= 3
    assert any(each.startswith("Encoding ") and each.endswith(" left") for each in context.messages)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mov", ["-c:v", "prores_ks", "-c:a", "pcm_s16le"]),
        ("a.webm", ["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"]),
        ("a.avi", ["-c:v", "mjpeg", "-c:a", "pcm_s16le"]),
        ("a.mpg", ["-c:v", "mpeg2video", "-c:a", "mp2"]),
        ("a.ts", ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]),
        ("a.m2ts", ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "ac3"]),
        ("a.flv", ["-c:v", "flv", "-c:a", "aac"]),
        ("a.wmv", ["-c:v", "wmv2", "-c:a", "wmav2"]),
        ("a.ogv", ["-c:v", "libtheora", "-c:a", "libvorbis"]),
        ("a.mkv", ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-c:a", "flac"]),
        ("av1.mp4", ["-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "lp=1", "-c:a", "aac"]),
    ],
)
def test_each_usual_format_is_read(tmp_path: Path, name: str, options: list[str]) -> None:
    source = make_video(tmp_path / name, *options, size="352x288", seconds=0.6)
    result = transcode(source, resolution="480")
    assert (result["width"], result["height"], result["videoCodec"], result["audioCodec"]) == (352, 288, "h264", "aac")
    assert result["duration"] == pytest.approx(0.6, abs=0.2)


def test_a_browsers_recording_that_does_not_say_its_length_has_percentages(tmp_path: Path) -> None:
    source = tmp_path / "a.webm"
    picture = ["-f", "lavfi", "-i", "testsrc2=size=128x72:duration=2"]
    source.write_bytes(ffmpeg(*picture, "-c:v", "libvpx", "-f", "webm", "-"))
    assert b"\x44\x89" not in source.read_bytes()[:4096]  # EBML's element Duration
    context = RecordingContext()
    assert transcode(source, context)["duration"] == pytest.approx(2, abs=0.1)
    assert context.percents[-1] == 100


@pytest.mark.parametrize(
    ("size", "filters", "made"),
    [
        ("640x360", "null", (640, 360)),  # nothing is enlarged
        ("1280x720", "null", (854, 480)),
        ("720x1280", "null", (480, 854)),  # the shorter side counts
        ("101x55", "null", (100, 54)),  # H.264's sides are even
        ("320x240", "setsar=2", (640, 240)),  # its pixels are wider than high
        ("2x2", "null", (2, 2)),
        ("4096x16", "null", (4096, 16)),
        ("4096x16", "setsar=3", (8192, 16)),
    ],
)
def test_the_picture_is_fitted(tmp_path: Path, size: str, filters: str, made: tuple[int, int]) -> None:
    options = ["-vf", filters, "-c:v", "libx264", "-pix_fmt", "yuv444p"]
    source = make_video(tmp_path / "a.mkv", *options, size=size, seconds=0.2, has_sound=False)
    result = transcode(source, resolution="480")
    assert (result["width"], result["height"], result["audioCodec"]) == (*made, None)


def test_a_phones_video_stands_upright(tmp_path: Path) -> None:
    flat = make_video(tmp_path / "flat.mp4", size="160x90", seconds=0.4)
    ffmpeg("-display_rotation", "90", "-i", str(flat), "-c", "copy", str(tmp_path / "a.mp4"))
    result = transcode(tmp_path / "a.mp4")
    assert (result["source"]["width"], result["width"], result["height"]) == (160, 90, 160)


def test_what_else_a_file_tells_stays_behind(tmp_path: Path) -> None:
    told = "taken on the beach of Sanur"
    source = make_video(tmp_path / "a.mp4", "-metadata", f"comment={told}", *QUICK)
    assert told.encode() in source.read_bytes()
    context = RecordingContext()
    transcode(source, context)
    assert told.encode() not in context.files["video.mp4"]


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64", "-frames:v", "1", str(cover))
    arguments = ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(cover), "-map", "0", "-map", "1", "-c:v", "mjpeg"]
    ffmpeg(*arguments, "-disposition:v", "attached_pic", str(tmp_path / "a.m4a"))
    with pytest.raises(JobFailure, match="only sound") as caught:
        transcode(tmp_path / "a.m4a")
    assert caught.value.code == "no_video_stream"


def test_damaged_parts_are_left_out_and_told_of(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", seconds=4)
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat") + 20_000
    for place in range(start, start + 10_000, 97):
        content[place] ^= 0xFF
    source.write_bytes(content)
    context = RecordingContext()
    assert transcode(source, context)["duration"] == pytest.approx(4, abs=0.2)
    assert ("warning", "Parts of the video are damaged; what could be read was encoded") in context.lines


def test_a_file_of_a_storage_that_is_no_folder_is_fetched(tmp_path: Path) -> None:
    assert transcode(make_video(tmp_path / "a.mp4"), is_remote=True)["width"] == 128


def test_the_pace_is_read_also_where_ffmpeg_does_not_know_it_yet() -> None:
    reader = PaceReader()
    text = (
        b"frame=0\nout_time_us=N/A\ntotal_size=N/A\nspeed=N/A\nprogress=continue\n"
        b"out_time_us=2000000\ntotal_size=48\nspeed=0.5x\nprogress=continue\n"
        b"out_time_us=1500000\nspeed= 1e+03x\nprogress=end"
    )
    paces = [pace for line in text.split(b"\n") if (pace := reader.add(line))]
    assert [(each.done_seconds, each.speed) for each in paces] == [(0, None), (2, 0.5), (2, 1000)]
    assert [each.seconds_left(10) for each in paces] == [None, 16, 0.008]
    assert reader.bytes_written == 48


# --- Limits -----------------------------------------------------------------------------------------------------------


def code_of(source: Path, quality: str = "medium") -> str:
    with pytest.raises(JobFailure) as caught:
        transcode(source, quality=quality)
    assert "/" not in caught.value.message
    return caught.value.code


def test_a_video_that_is_too_long_is_refused_before_it_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "a.mp4", seconds=2)
    monkeypatch.setattr(scan, "LONGEST_SECONDS", 1.5)
    assert code_of(source) == "too_long"


def test_a_length_that_is_a_lie_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "a.mp4", seconds=4)
    content = bytearray(source.read_bytes())
    for box in re.finditer(b"mvhd|mdhd", source.read_bytes()):
        content[box.start() + 20 : box.start() + 24] = (1).to_bytes(4)  # a duration of one tick
    source.write_bytes(content)
    assert transcode(source)["duration"] == pytest.approx(4, abs=0.2)
    monkeypatch.setattr(scan, "LONGEST_SECONDS", 3)
    assert code_of(source) == "too_long"


def test_a_result_that_grows_too_large_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "LARGEST_RESULT_BYTES", 100_000)
    source = make_video(tmp_path / "a.mp4", size="1280x720", seconds=8)
    assert code_of(source, quality="high") == "output_too_large"


def test_a_job_that_gets_no_more_memory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "a.mp4", size="1920x1080", seconds=1)
    monkeypatch.setattr(running, "MEMORY_BYTES", 320 << 20)
    # Where it runs out decides what ffmpeg makes of it.
    assert code_of(source) in ("too_much_memory", "corrupt")


def test_without_the_program_the_job_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing() -> str:
        raise RuntimeError

    source = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", find_nothing)
    assert code_of(source) == "no_ffmpeg"


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_kind_is_offered_only_with_the_extra(is_installed: bool) -> None:
    hide = "" if is_installed else "sys.modules['imageio_ffmpeg'] = None; "
    code = f"import sys; {hide}import django; django.setup(); from jobs import kinds; print(kinds.kind_names())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("video.transcode" in run.stdout) is is_installed
    assert "csv.report" in run.stdout


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, []),
        ({"resolution": "720", "quality": "low"}, []),
        ({"resolution": "9000"}, ["resolution"]),
        ({"quality": "-crf 0"}, ["quality"]),
    ],
)
def test_params_are_checked(params: dict[str, str], wrong: list[str]) -> None:
    serializer = VideoTranscodeParams(data={"file": SimpleUploadedFile("a.mp4", b"a"), **params})
    serializer.is_valid()
    assert list(serializer.errors) == wrong


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_ends_ffmpeg_within_a_second(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", size="640x360", seconds=60)
    before = children_of(os.getpid())
    context = RecordingContext(stop_at_percent=3)
    with pytest.raises(CancelledForTestError):
        transcode(source, context)
    assert 3 <= context.percents[-1] < 96
    assert children_of(os.getpid()) == before
    assert not context.files


def test_a_quiet_ffmpeg_is_asked_about_too() -> None:
    asked: list[float] = []

    def stop_at_the_third() -> None:
        asked.append(time.monotonic())
        if len(asked) == 3:
            raise CancelledForTestError

    began_at = time.monotonic()
    arguments = ["-re", "-f", "lavfi", "-i", "testsrc=duration=60", "-f", "null", "-"]
    run = running.Ffmpeg(arguments, descriptors=[], cpu_seconds=60, check=stop_at_the_third)
    with pytest.raises(CancelledForTestError), run:
        list(run.output())
    assert time.monotonic() - began_at < 5


ENDLESS = """
import django
django.setup()
from jobs.builtin.video_transcode.ffmpeg import Ffmpeg
arguments = ["-re", "-f", "lavfi", "-i", "testsrc", "-progress", "pipe:1", "-f", "null", "-"]
with Ffmpeg(arguments, descriptors=[], cpu_seconds=60, check=lambda: None) as run:
    for line in run.lines():
        print("on", flush=True)
"""


def test_a_killed_worker_takes_ffmpeg_with_it_and_gives_it_none_of_its_secrets() -> None:
    env: dict[str, Any] = {**os.environ, "SECRET_KEY": "a-secret-of-the-worker"}
    worker = subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=ROOT, env=env, stdout=subprocess.PIPE)
    try:
        assert worker.stdout
        assert worker.stdout.readline() == b"on\n"
        (child,) = children_of(worker.pid)
        assert Path(f"/proc/{child}/environ").read_bytes() == b"LC_ALL=C\0"
        limits = Path(f"/proc/{child}/limits").read_text()
        assert re.search(rf"Max address space +{MEMORY_BYTES} +{MEMORY_BYTES}", limits)
        assert re.search("Max cpu time +60 +60", limits)
        worker.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(child), 5, "the death of ffmpeg")
    finally:
        worker.kill()
        worker.communicate()
