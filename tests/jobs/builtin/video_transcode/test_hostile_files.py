"""Files that were made to read the server's own or to call out, and files that break: each is refused in words."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.builtin.video_transcode.containers import CONTAINERS, Container
from jobs.builtin.video_transcode.ffmpeg import Ffmpeg, input_of, program
from jobs.builtin.video_transcode.scan import scan
from jobs.failures import JobFailure
from tests.jobs.builtin.video_transcode.making import QUICK, RecordingContext, ffmpeg, make_video, transcode

SECRET = b"root:x:0:0"
LISTS = {
    "hls-file": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "hls-http": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "hls-concat": "#EXTM3U\n#EXTINF:1,\nconcat:{url}/?|file:///etc/passwd\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{url}/a.mp4'\nfile '/etc/passwd'\n",
    "concat": "file '/etc/passwd'\nfile '{url}/a.mp4'\n",
    "dash": '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet><Representation><BaseURL>{url}/</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "smil": '<smil><body><video src="{url}/a.mp4"/></body></smil>',
    "avisynth": 'AviSource("/etc/passwd")\n',
    "subtitles": "1\n00:00:00,000 --> 00:00:09,000\n<img src='{url}/a.png'>\n",
    "text": "A shopping list: bread, milk, /etc/passwd, {url}\n",
}


class Listener:
    """A server that nobody may call."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._socket.close()

    def was_called(self) -> bool:
        """Tell whether a connection waits in line: the kernel takes it without anybody's accepting it."""
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    assert not made.was_called(), "somebody called out"
    made.close()


def written(listener: Listener, name: str) -> bytes:
    return LISTS[name].replace("{url}", listener.url).replace("{port}", str(listener.port)).encode()


def refused(path: Path, context: RecordingContext | None = None) -> JobFailure:
    with pytest.raises(JobFailure) as caught:
        transcode(path, context)
    assert "/" not in caught.value.message
    assert str(path.name) not in caught.value.message
    return caught.value


# --- Files that name others -------------------------------------------------------------------------------------------


def test_an_ffmpeg_that_is_not_confined_would_call(tmp_path: Path) -> None:
    listener = Listener()
    path = tmp_path / "a.m3u8"
    path.write_bytes(written(listener, "hls-http"))
    options = ["-protocol_whitelist", "file,crypto,http,tcp", "-rw_timeout", "500000"]
    command = [program(), "-nostdin", *options, "-i", str(path), "-f", "null", "-"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=3, check=False)
    assert listener.was_called()
    listener.close()


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_is_no_video(tmp_path: Path, listener: Listener, name: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(written(listener, name))
    assert refused(path).code == "not_a_video"


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda each: each.demuxer)
def test_a_list_that_passes_for_a_video_is_not_followed(
    tmp_path: Path, listener: Listener, container: Container
) -> None:
    for name in LISTS:
        path = tmp_path / name
        path.write_bytes(written(listener, name))
        with path.open("rb") as file, pytest.raises(JobFailure):
            scan(container, file.fileno(), lambda: None)


@pytest.mark.parametrize(
    "protocol", ["file:/etc/passwd", "http", "concat:/etc/passwd", "subfile,,start,0,end,0,,:/etc/passwd"]
)
def test_no_other_input_is_opened_even_when_ffmpeg_is_told_to(
    tmp_path: Path, listener: Listener, protocol: str
) -> None:
    with make_video(tmp_path / "a.mp4").open("rb") as file:
        arguments = input_of(CONTAINERS[0], file.fileno())
        arguments[arguments.index("fd:")] = protocol.replace("http", f"{listener.url}/a.mp4")
        run = Ffmpeg([*arguments, "-f", "null", "-"], descriptors=[file.fileno()], cpu_seconds=9, check=lambda: None)
        with run, pytest.raises(JobFailure):
            list(run.output())
        assert "Protocol not found" in run.last_words or "not on whitelist" in run.last_words


@pytest.mark.parametrize("name", ["hls-file", "hls-http", "ffconcat"])
def test_a_playlist_inside_an_avi_is_not_followed(tmp_path: Path, listener: Listener, name: str) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(avi_with_subtitles(written(listener, name), picture=one_picture()))
    context = RecordingContext()
    transcode(path, context)
    assert list(context.files) == ["video.mp4", "poster.jpg"]
    assert not any(SECRET in each for each in context.files.values())


def test_a_track_that_lies_in_another_file_is_not_opened(tmp_path: Path) -> None:
    trap = tmp_path / "trap.mp4"
    os.mkfifo(trap)  # whoever opens it waits for ever
    pointer = make_video(tmp_path / "pointer.mp4", size="64x64", has_sound=False)
    pointer.write_bytes(with_reference(pointer.read_bytes(), str(trap)))
    careless = ["-enable_drefs", "1", "-use_absolute_path", "1", "-i", str(pointer), "-f", "null", "-"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([program(), "-nostdin", *careless], capture_output=True, timeout=2, check=False)
    assert refused(pointer).code == "corrupt"


def one_picture() -> bytes:
    picture = ["-f", "lavfi", "-i", "testsrc2=size=64x64", "-frames:v", "1"]
    return ffmpeg(*picture, "-c:v", "mjpeg", "-f", "image2pipe", "-")


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def avi_with_subtitles(text: bytes, picture: bytes) -> bytes:
    """Make an AVI of one picture whose subtitles (a chunk `GAB2`) ffmpeg has an inner reader for."""
    name = "a".encode("utf-16-le") + b"\0\0"
    subtitles = b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name + struct.pack("<HI", 4, len(text)) + text
    main = struct.pack("<14I", 40_000, 0, 0, 0x10, 25, 0, 2, 0, 64, 64, 0, 0, 0, 0)

    def stream(kind: bytes, codec: bytes, form: bytes) -> bytes:
        head = kind + codec + struct.pack("<IHHIIIIIIII4H", 0, 0, 0, 0, 1, 25, 0, 25, 0, 0, 0, 0, 0, 64, 64)
        return chunk(b"LIST", b"strl" + chunk(b"strh", head) + chunk(b"strf", form))

    bitmap = struct.pack("<IiiHH4sIiiII", 40, 64, 64, 1, 24, b"MJPG", 64 * 64 * 3, 0, 0, 0, 0)
    header = b"hdrl" + chunk(b"avih", main) + stream(b"vids", b"MJPG", bitmap) + stream(b"txts", b"\0" * 4, b"")
    movie = b"movi" + chunk(b"01tx", subtitles) + chunk(b"00dc", picture) * 25
    return chunk(b"RIFF", b"AVI " + chunk(b"LIST", header) + chunk(b"LIST", movie))


def with_reference(mp4: bytes, path: str) -> bytes:
    """Have an MP4's only track lie in another file (QuickTime's `alis`); the index must stand last."""

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + name + content

    def rebuilt(content: bytes, way: list[bytes]) -> bytes:
        if not way:
            return alias
        made, place = b"", 0
        while place < len(content):
            size, name = struct.unpack_from(">I4s", content, place)
            inner = content[place + 8 : place + size]
            made += box(name, rebuilt(inner, way[1:]) if name == way[0] else inner)
            place += size
        return made

    target = path.encode()
    # The fields of an alias record that ffmpeg reads, then its tag 2: the whole path.
    record = struct.pack(">4sHHH", b"\0" * 4, 150 + 4 + len(target), 2, 0) + b"\0" * (150 - 10)
    record += struct.pack(">HH", 2, len(target)) + target + b"\0" * (len(target) % 2) + struct.pack(">HH", 0xFFFF, 0)
    alias = struct.pack(">II", 0, 1) + box(b"alis", struct.pack(">I", 0) + record)
    return rebuilt(mp4, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"])


# --- Files that break -------------------------------------------------------------------------------------------------


def test_an_empty_file_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "a.mp4").message.startswith("The file is empty.")


@pytest.mark.parametrize("flags", ["+faststart", "0"])
def test_an_mp4_that_is_cut_off_is_corrupt(tmp_path: Path, flags: str) -> None:
    path = make_video(tmp_path / "a.mp4", *QUICK, "-movflags", flags, seconds=4)
    os.truncate(path, path.stat().st_size // 2)
    assert refused(path).code == "corrupt"


def test_random_bytes_behind_a_videos_first_ones_are_corrupt(tmp_path: Path) -> None:
    noise = os.urandom(50_000)
    heads = [b"\0\0\0\x20ftypisom", b"\x1a\x45\xdf\xa3", b"RIFF\0\0\1\0AVI ", b"\0\0\1\xba", b"FLV\1", b"OggS"]
    for number, head in enumerate(heads):
        path = tmp_path / str(number)
        path.write_bytes(head + noise)
        assert refused(path).code in ("corrupt", "no_video_stream", "unknown_codec")


@pytest.mark.parametrize("size", ["16384x64", "8192x8192"])
def test_an_absurdly_large_picture_is_refused_before_it_is_decoded(tmp_path: Path, size: str) -> None:
    path = make_video(tmp_path / "a.avi", "-c:v", "mjpeg", size=size, seconds=0.04, has_sound=False)
    failure = refused(path)
    assert failure.code == "picture_too_large"
    assert "8192 x 4320" in failure.message


def test_a_codec_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", "-c:v", "cinepak", size="64x64", seconds=0.2, has_sound=False)
    assert refused(path).message == "The picture is encoded as cinepak, which isn't taken."


def test_a_photograph_in_the_boxes_of_an_mp4_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    assert refused(path).code == "not_a_video"
