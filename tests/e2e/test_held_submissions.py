"""A caller prefers to wait for the end of what it submits, from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import requests

from tests.e2e.stack import Client, Stack

QUICK = {"kind": "demo.countdown", "params": {"seconds": 0.3, "steps": 1}}
LATER = {"kind": "demo.countdown", "runAt": "2099-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("prefer", "applied"), [("wait=20", "wait=20"), ("wait", "wait=60"), ("respond-async, wait=20", "wait=20")]
)
def test_a_submission_that_prefers_to_wait_is_answered_by_the_ended_job(
    client: Client, prefer: str, applied: str
) -> None:
    begun = time.monotonic()
    response = client.post("/api/jobs", QUICK, headers={"Prefer": prefer})
    assert (response.status_code, response.headers["Preference-Applied"]) == (200, applied)
    job = response.json()
    assert (job["status"], job["result"]["steps"]) == ("COMPLETED", 1)
    assert response.headers["Location"] == job["statusUrl"]
    assert response.headers["ETag"] == client.get(f"/api/jobs/{job['jobId']}").headers["ETag"]
    assert "X-Kabar-Wait" not in response.headers
    assert time.monotonic() - begun < 15


def test_the_usual_receipt_comes_when_the_time_passes(client: Client) -> None:
    begun = time.monotonic()
    response = client.post("/api/jobs", LATER, headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    assert 0.9 < time.monotonic() - begun < 10
    receipt = response.json()
    assert (receipt["status"], response.headers["Location"]) == ("ACCEPTED", receipt["statusUrl"])
    assert "Preference-Applied" not in response.headers
    assert "X-Kabar-Wait" not in response.headers


@pytest.mark.parametrize("prefer", ["respond-async", "wait=0", "wait=soon", "wait 5", 'x="wait=5"', "waiting=9", ""])
def test_other_and_malformed_preferences_hold_nothing(client: Client, prefer: str) -> None:
    begun = time.monotonic()
    response = client.post("/api/jobs", LATER, headers={"Prefer": prefer})
    assert response.status_code == 202
    assert "X-Kabar-Wait" not in response.headers
    assert time.monotonic() - begun < 5


def test_a_refused_submission_is_refused_at_once(client: Client) -> None:
    response = client.post("/api/jobs", {"kind": "no.such"}, headers={"Prefer": "wait=30"})
    assert response.status_code == 422
    assert client.post("/api/jobs", None, headers={"Prefer": "wait=30"}).status_code == 400


def test_a_job_that_fails_ends_the_wait_too(client: Client) -> None:
    body = QUICK | {"params": {"seconds": 0, "steps": 1, "failures": 1}, "maxAttempts": 1}
    response = client.post("/api/jobs", body, headers={"Prefer": "wait=20"})
    assert (response.status_code, response.json()["status"]) == (200, "FAILED")


def test_a_form_with_a_file_may_wait(client: Client) -> None:
    response = client.session.post(
        client.url + "/api/jobs",
        data={"job": '{"kind": "csv.report"}'},
        files={"file": ("a.csv", b"a,b\n1,2\n3,4\n" * 20_000, "text/csv")},
        headers={"Prefer": "wait=60"},
        timeout=70,
    )
    assert (response.status_code, response.json()["status"]) == (200, "COMPLETED"), response.text[:500]


def test_a_rerun_and_a_replay_may_wait(client: Client) -> None:
    headers = {"Prefer": "wait=20", "Idempotency-Key": "held"}
    first = client.post("/api/jobs", QUICK, headers=headers)
    again = client.post("/api/jobs", QUICK, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["jobId"] == first.json()["jobId"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    rerun = client.post(f"/api/jobs/{first.json()['jobId']}/rerun", {"priority": 1}, headers={"Prefer": "wait=20"})
    assert rerun.status_code == 200, rerun.text
    shown = rerun.json()
    assert (shown["status"], shown["priority"], shown["retriedFrom"]) == ("COMPLETED", 1, first.json()["jobId"])


def test_a_client_that_leaves_is_forgotten_and_its_job_runs_all_the_same(client: Client) -> None:
    unique = {"uniqueKey": "left", "onConflict": "return"}
    slow = QUICK | {"params": {"seconds": 2, "steps": 4}}
    with pytest.raises(requests.ReadTimeout):
        client.session.post(client.url + "/api/jobs", json=slow | unique, headers={"Prefer": "wait=30"}, timeout=0.7)
    standing = client.post("/api/jobs", slow | unique)
    assert standing.status_code == 200
    assert client.finished(standing.json()["jobId"])["status"] == "COMPLETED"


def side_by_side(count: int, call: Callable[[], requests.Response]) -> list[requests.Response]:
    answers: list[requests.Response] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait(timeout=20)
        answers.append(call())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == count
    return answers


def test_sixteen_requests_at_once_with_one_key_make_one_job(stack: Stack) -> None:
    token = stack.token("racer")

    def submit() -> requests.Response:
        return Client(stack.url, token).post("/api/jobs", LATER, headers={"Idempotency-Key": "race"})

    answers = side_by_side(16, submit)
    assert {each.status_code for each in answers} == {202}
    assert len({each.json()["jobId"] for each in answers}) == 1
    assert sum(each.headers.get("Idempotent-Replayed") == "true" for each in answers) == 15
    assert len({each.text for each in answers if "Idempotent-Replayed" in each.headers}) == 1
    assert len(stack.client("racer").get("/api/jobs").json()["items"]) == 1


def test_a_wait_for_events_goes_on_while_only_others_have_news(stack: Stack) -> None:
    listener, other = stack.client("listener"), stack.client("somebody-noisy")
    cursor = listener.get("/api/events").json()["next"]
    answers: list[requests.Response] = []
    thread = threading.Thread(target=lambda: answers.append(listener.get(f"/api/events?cursor={cursor}&wait=30")))
    thread.start()
    for _ in range(3):
        other.finished(other.submit(params={"seconds": 0, "steps": 1}))
    assert answers == [], "the news of others isn't for this one"
    own = listener.submit(params={"seconds": 0, "steps": 1})
    thread.join(20)
    (answer,) = answers
    assert {each["data"]["jobId"] for each in answer.json()["events"]} == {own}
    assert "X-Kabar-Wait" not in answer.headers
