"""A video is transcoded by the real thing, and what happens to ffmpeg when the job or its worker ends early."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Client, Stack
from tests.jobs.builtin.video_transcode.making import children_of, is_alive, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.on_any_database


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a video that takes some seconds to encode."""
    quick = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "40", "-c:a", "aac"]
    return make_video(tmp_path_factory.mktemp("video") / "long.mp4", *quick, size="1280x720", seconds=40)


def send(client: Client, path: Path, **fields: Any) -> str:
    """Submit a video and give the job's id."""
    job = json.dumps({"kind": "video.transcode", "params": {"resolution": "480"}, **fields})
    with path.open("rb") as file:
        response = client.session.post(
            f"{client.url}/api/jobs", data={"job": job}, files={"file": (path.name, file)}, timeout=60
        )
    assert response.status_code == 202, response.text
    job_id: str = response.json()["jobId"]
    return job_id


def percent_of(job: dict[str, Any]) -> float:
    return (job["progress"] or {}).get("percent") or 0.0


def wait_until_it_encodes(client: Client, job_id: str) -> None:
    wait_until(lambda: percent_of(client.job(job_id)) > 2, 50, "the first progress of the encoding")


def workers(stack: Stack) -> list[int]:
    """List the pids of the workers that run jobs."""
    code = (
        "from jobs.models import Worker\nprint([each.pid for each in Worker.objects.all() if 'default' in each.queues])"
    )
    pids: list[int] = json.loads(stack.manage("shell", "--no-imports", "-c", code).splitlines()[-1])
    return [pid for pid in pids if is_alive(pid)]


def encoding_process(pids: list[int]) -> tuple[int, int]:
    """Find the one worker that runs ffmpeg: its pid and ffmpeg's."""
    ((worker, child),) = [(pid, child) for pid in pids for child in children_of(pid)]
    return worker, child


def leftovers(stack: Stack) -> list[Path]:
    return list((stack.data / "incoming").iterdir())


def test_a_video_becomes_an_mp4_and_a_poster_with_rising_percentages(client: Client, long_video: Path) -> None:
    job_id = send(client, long_video)
    percents = [0.0]

    def is_done() -> bool:
        job = client.job(job_id)
        percents.append(percent_of(job))
        return bool(job["done"])

    wait_until(is_done, 55, "the end of the job")
    job = client.job(job_id)
    assert job["status"] == "COMPLETED", job["error"]
    assert percents == sorted(percents)
    assert len({each for each in percents if 2 < each < 96}) >= 2
    assert percents[-1] == 100
    assert (job["result"]["width"], job["result"]["height"], job["result"]["videoCodec"]) == (854, 480, "h264")
    assert [(each["name"], each["contentType"]) for each in job["artifacts"]] == [
        ("video.mp4", "video/mp4"),
        ("poster.jpg", "image/jpeg"),
    ]
    assert job["resultUrl"] == job["artifacts"][0]["url"]
    head = client.session.get(job["resultUrl"], headers={"Range": "bytes=4-7"}, timeout=30)
    assert (head.status_code, head.content, head.headers["Content-Type"]) == (206, b"ftyp", "video/mp4")
    picture = client.session.get(job["artifacts"][1]["url"], timeout=30)
    assert picture.content.startswith(b"\xff\xd8\xff")


def test_a_playlist_fails_in_words(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    job = client.finished(send(client, path))
    assert (job["status"], job["attempt"], job["artifacts"]) == ("FAILED", 1, [])
    assert job["error"] == {
        "code": "not_a_video",
        "message": "This is a playlist, which only names videos. Send the video itself.",
        "attempt": 1,
    }


@pytest.mark.parametrize("way", ["cancelled", "out of time"])
def test_a_job_that_ends_early_ends_ffmpeg(stack: Stack, client: Client, long_video: Path, way: str) -> None:
    pids = workers(stack)
    limits = {"maxAttempts": 1, "timeout": 4} if way == "out of time" else {}
    job_id = send(client, long_video, **limits)
    wait_until_it_encodes(client, job_id)
    _, child = encoding_process(pids)
    if way == "cancelled":
        assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 202
    job = client.finished(job_id, 30)
    if way == "cancelled":
        assert job["status"] == "CANCELLED"
    else:
        assert (job["status"], job["error"]["code"]) == ("FAILED", "timeout")
    assert not is_alive(child)
    assert leftovers(stack) == []


def test_a_killed_worker_takes_ffmpeg_along_and_the_second_attempt_completes(
    stack: Stack, client: Client, long_video: Path
) -> None:
    pids = workers(stack)
    job_id = send(client, long_video)
    wait_until_it_encodes(client, job_id)
    worker, child = encoding_process(pids)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not is_alive(child), 5, "the death of ffmpeg")
    assert leftovers(stack) == []
    job = client.finished(job_id, 55)
    assert (job["status"], job["attempt"], len(job["artifacts"])) == ("COMPLETED", 2, 2), job["error"]
