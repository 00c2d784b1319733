"""A caller starts jobs and polls, from outside."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.stack import Client, Stack

WEATHER = Path(__file__).parents[2] / "jobs/builtin/sample/seattle-weather.csv"


def test_a_job_is_accepted_at_once_and_completed_by_a_worker(client: Client) -> None:
    receipt = client.post("/api/jobs", {"kind": "demo.countdown", "params": {"seconds": 0.5, "steps": 5}})
    assert receipt.status_code == 202
    body = receipt.json()
    assert body["status"] == "ACCEPTED"
    assert body["job"]["status"] == "PENDING"
    assert receipt.headers["Location"] == body["statusUrl"]
    assert receipt.headers["Retry-After"]
    done = client.finished(body["jobId"])
    assert (done["status"], done["result"], done["attempt"]) == ("COMPLETED", {"steps": 5, "attempt": 1}, 1)
    assert done["progress"]["percent"] == 100.0
    assert [each["type"] for each in client.get(f"/api/jobs/{body['jobId']}/events").json()["events"]] == [
        "job.accepted",
        "job.started",
        "job.log",
        "job.completed",
    ]


def test_polls_see_rising_progress(client: Client) -> None:
    job_id = client.submit(params={"seconds": 3, "steps": 30})
    seen, etag, end = [], "", time.monotonic() + 20
    while time.monotonic() < end:
        response = client.get(f"/api/jobs/status/{job_id}?wait=5", headers={"If-None-Match": etag} if etag else {})
        if response.status_code == 304:
            continue
        etag = response.headers["ETag"]
        job = response.json()
        if job["progress"]:
            seen.append(job["progress"]["percent"])
        if job["done"]:
            break
        if not etag:
            continue
    assert job["status"] == "COMPLETED"
    assert seen == sorted(seen)
    assert seen[-1] == 100.0


def test_a_held_poll_is_answered_when_the_job_ends(client: Client) -> None:
    job_id = client.submit(params={"seconds": 1, "steps": 1})
    begun = time.monotonic()
    response = client.get(f"/api/jobs/{job_id}?wait=30")
    assert response.json()["done"]
    assert time.monotonic() - begun < 10
    assert "X-Kabar-Wait" not in response.headers


def test_a_csv_file_becomes_a_report(client: Client) -> None:
    with WEATHER.open("rb") as file:
        response = client.session.post(
            client.url + "/api/jobs",
            data={"job": '{"kind": "csv.report", "params": {}}'},
            files={"file": ("weather.csv", file, "text/csv")},
            timeout=30,
        )
    assert response.status_code == 202, response.text
    assert response.json()["job"]["params"]["file"] == "weather.csv"
    done = client.finished(response.json()["jobId"])
    assert done["status"] == "COMPLETED", done["error"]
    assert done["result"]["rows"] == 1461
    report = client.session.get(done["resultUrl"], headers={"Authorization": ""}, timeout=30)
    assert report.status_code == 200
    assert report.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "sandbox" in report.headers["Content-Security-Policy"]
    assert report.text.startswith("<!doctype html>")


def test_a_failing_job_is_tried_again_and_tells_why(client: Client) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1, "failures": 1}, maxAttempts=2)
    done = client.finished(job_id)
    assert (done["status"], done["attempt"], done["error"]) == ("COMPLETED", 2, None)


def test_a_running_job_is_cancelled_within_seconds(client: Client) -> None:
    job_id = client.submit(params={"seconds": 60, "steps": 600})
    client.get(f"/api/jobs/{job_id}/events?after=1&wait=10")
    response = client.post(f"/api/jobs/{job_id}/cancel")
    assert response.status_code == 202
    assert response.json()["cancelRequestedAt"]
    assert client.finished(job_id, 15)["status"] == "CANCELLED"


def test_a_worker_that_has_to_stop_puts_its_job_back_and_nothing_is_counted(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 15, "steps": 150}, maxAttempts=1)
    client.get(f"/api/jobs/{job_id}/events?after=1&wait=10")
    stack.supervisor.restart("worker")
    done = client.finished(job_id, 50)
    assert (done["status"], done["attempt"], done["error"]) == ("COMPLETED", 1, None)
    types = [each["type"] for each in client.get(f"/api/jobs/{job_id}/events").json()["events"]]
    assert types == ["job.accepted", "job.started", "job.retrying", "job.started", "job.log", "job.completed"]


def test_a_killed_worker_costs_an_attempt_and_not_the_job(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 4, "steps": 40})
    client.get(f"/api/jobs/{job_id}/events?after=1&wait=10")
    stack.manage(
        "shell",
        "-c",
        "import os, signal\nfrom jobs.models import Job, Worker\n"
        f"job = Job.objects.get(pk={job_id!r})\nos.kill(Worker.objects.get(pk=job.worker).pid, signal.SIGKILL)",
    )
    done = client.finished(job_id, 60)
    assert (done["status"], done["attempt"]) == ("COMPLETED", 2)
    types = [each["type"] for each in client.get(f"/api/jobs/{job_id}/events").json()["events"]]
    assert types == ["job.accepted", "job.started", "job.retrying", "job.started", "job.log", "job.completed"]
