"""Many jobs in one request, and the one word of their end through every door, from outside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.receiver import Receiver, receiving
from tests.e2e.stack import Client, Stack
from tests.e2e.test_push import hear, say, socket, sse
from tests.waiting import wait_until

QUICK = {"kind": "demo.countdown", "params": {"seconds": 0, "steps": 1}, "maxAttempts": 1}
FAILING = {"kind": "demo.countdown", "params": {"seconds": 0, "steps": 1, "failures": 1}, "maxAttempts": 1}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def submit(client: Client, jobs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    response = client.post("/api/jobs/batch", {"jobs": jobs, **more})
    assert response.status_code == 202, response.text
    shown: dict[str, Any] = response.json()
    assert response.headers["Location"] == shown["batchUrl"]
    return shown


def path_of(batch: dict[str, Any]) -> str:
    return f"/api/batches/{batch['batchId']}"


def test_the_end_of_a_batch_is_told_once_through_every_door(stack: Stack, receiver: Receiver) -> None:
    client = stack.client("batcher")
    hooks = {
        types: client.post("/api/webhooks", {"url": f"{receiver.url}/{path}", "eventTypes": [types], "kinds": kinds})
        for types, path, kinds in (("batch.completed", "named", ["csv.report"]), ("job.*", "jobs", []))
    }
    cursor = client.get("/api/events").json()["next"]
    streamed: list[dict[str, Any]] = []

    def stream() -> None:
        for event in sse(client, f"/api/events?cursor={cursor}"):
            streamed.append(json.loads(event["data"]))
            if event["event"] == "batch.completed":
                return

    with socket(stack, client.token) as connection:
        say(connection, type="subscribe", cursor=cursor)
        assert hear(connection)["recovered"] is True
        listening = threading.Thread(target=stream)
        listening.start()
        batch = submit(client, [QUICK, FAILING, QUICK], callbackUrl=f"{receiver.url}/callback")
        held = client.get(f"{path_of(batch)}?wait=30")
        pushed: list[dict[str, Any]] = []
        while not pushed or pushed[-1]["type"] != "batch.completed":
            message = hear(connection)
            pushed.append(message["event"])
    listening.join(20)

    done = held.json()
    counts = {"total": 3, "pending": 0, "running": 0, "completed": 2, "failed": 1, "cancelled": 0, "done": True}
    assert done == done | counts
    assert "X-Kabar-Wait" not in held.headers
    polled = client.get(f"/api/events?cursor={cursor}").json()["events"]
    (event,) = [each for each in polled if each["type"] == "batch.completed"]
    assert (event["data"], event["sequence"], event["timestamp"]) == (done, 1, done["finishedAt"])
    assert pushed[-1] == streamed[-1] == event
    assert {each["type"] for each in polled[:-1]} >= {"job.accepted", "job.completed", "job.failed"}

    (called,) = wait_until(lambda: receiver.at("/callback"))
    assert called.verified(client.get("/api/callback-secret").json()["secret"]) == event
    assert called.headers["webhook-id"] == event["id"]
    (named,) = wait_until(lambda: receiver.at("/named"))
    assert named.verified(hooks["batch.completed"].json()["secret"]) == event
    wait_until(lambda: len(receiver.at("/jobs")) >= 9)
    types = {each.verified(hooks["job.*"].json()["secret"])["type"] for each in receiver.at("/jobs")}
    assert "batch.completed" not in types
    deliveries = client.get("/api/deliveries").json()["items"]
    of_batch = [each for each in deliveries if each["type"] == "batch.completed"]
    assert [(each["jobId"], each["batchId"]) for each in of_batch] == [(None, batch["batchId"])] * 2
    for hook in hooks.values():
        client.delete(f"/api/webhooks/{hook.json()['id']}")


def test_a_held_poll_of_a_batch_is_answered_at_the_next_change_or_at_its_end(stack: Stack) -> None:
    client = stack.client("batcher")
    slow = QUICK | {"params": {"seconds": 1.5, "steps": 3}}
    batch = submit(client, [QUICK, slow])
    first = client.get(path_of(batch))
    seen = [first.json()]
    etag, end = first.headers["ETag"], time.monotonic() + 30
    while not seen[-1]["done"] and time.monotonic() < end:
        response = client.get(f"{path_of(batch)}?wait=10", headers={"If-None-Match": etag})
        if response.status_code == 200:
            seen.append(response.json())
            etag = response.headers["ETag"]
    assert seen[-1]["completed"] == 2
    assert len(seen) >= 2
    begun = time.monotonic()
    assert client.get(f"{path_of(batch)}?wait=30").json()["done"], "what is done is never held"
    assert time.monotonic() - begun < 5


def test_a_batch_that_does_not_change_is_held_until_its_time_is_over(stack: Stack) -> None:
    client = stack.client("batcher")
    batch = submit(client, [QUICK | {"runAt": "2099-01-01T00:00:00Z"}])
    etag = client.get(path_of(batch)).headers["ETag"]
    begun = time.monotonic()
    assert client.get(f"{path_of(batch)}?wait=1", headers={"If-None-Match": etag}).status_code == 304
    assert client.get(f"{path_of(batch)}?wait=1").json()["pending"] == 1
    assert 1.9 < time.monotonic() - begun < 10


def test_a_thousand_jobs_are_accepted_run_and_counted(stack: Stack) -> None:
    client = stack.client("batcher")
    batch = submit(client, [QUICK | {"metadata": {"number": number}} for number in range(1000)])
    assert [each["job"]["metadata"]["number"] for each in batch["jobs"]] == list(range(1000))
    end = time.monotonic() + 120
    while not (done := client.get(f"{path_of(batch)}?wait=30").json())["done"]:
        assert time.monotonic() < end, done
    assert (done["total"], done["completed"]) == (1000, 1000)
    (one,) = client.get(f"/api/jobs?batch={batch['batchId']}&metadata.number=517&fields=jobId").json()["items"]
    assert one == {"jobId": batch["jobs"][517]["jobId"]}
