"""A caller names a URL and is told there, from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.receiver import Receiver, receiving
from tests.e2e.stack import Client, Stack
from tests.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def test_a_callback_gets_the_signed_result(client: Client, receiver: Receiver) -> None:
    job_id = client.submit(params={"seconds": 0, "steps": 1}, callbackUrl=f"{receiver.url}/hook")
    done = client.finished(job_id)
    (post,) = wait_until(lambda: receiver.at("/hook"))
    envelope = post.verified(client.get("/api/callback-secret").json()["secret"])
    last = client.get(f"/api/jobs/{job_id}/events").json()["events"][-1]
    assert envelope == last
    assert envelope["data"]["result"] == done["result"]
    assert post.headers["webhook-id"] == envelope["id"]
    assert post.headers["user-agent"].startswith("Kabar/")
    assert post.headers["content-type"] == "application/json"


def test_a_failed_delivery_is_tried_again_under_the_same_id(client: Client, receiver: Receiver) -> None:
    receiver.answers = [503]
    job_id = client.submit(params={"seconds": 0, "steps": 1}, callbackUrl=f"{receiver.url}/hook")
    wait_until(lambda: len(receiver.at("/hook")) == 2, 30)
    first, second = receiver.at("/hook")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    (delivery,) = wait_until(lambda: client.get(f"/api/deliveries?job={job_id}&status=DELIVERED").json()["items"], 10)
    assert [each["statusCode"] for each in delivery["attempts"]] == [503, 204]


def test_a_registered_webhook_hears_what_it_asked_for(stack: Stack, receiver: Receiver) -> None:
    client = stack.client("subscriber")
    created = client.post(
        "/api/webhooks", {"url": f"{receiver.url}/all", "eventTypes": ["job.*"], "kinds": ["demo.countdown"]}
    )
    assert created.status_code == 201, created.text
    secret = created.json()["secret"]
    assert client.get(f"/api/webhooks/{created.json()['id']}/secret").json() == {"secret": secret}
    assert "secret" not in client.get(f"/api/webhooks/{created.json()['id']}").json()
    job_id = client.submit(params={"seconds": 0, "steps": 1})
    other = stack.client("somebody-else").submit(params={"seconds": 0, "steps": 1})
    wait_until(lambda: len(receiver.at("/all")) == 3)
    stack.client("somebody-else").finished(other)
    envelopes = [post.verified(secret) for post in receiver.at("/all")]
    assert {each["data"]["jobId"] for each in envelopes} == {job_id}
    assert {each["type"] for each in envelopes} == {"job.accepted", "job.started", "job.completed"}
    assert client.delete(f"/api/webhooks/{created.json()['id']}").status_code == 204


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706434/",
        "ftp://example.org/",
        "https://user:secret@example.org/",
        "not a url",
    ],
)
def test_a_callback_to_a_private_or_senseless_url_is_refused(client: Client, url: str) -> None:
    response = client.post("/api/jobs", {"kind": "demo.countdown", "callbackUrl": url})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert [each["pointer"] for each in response.json()["errors"]] == ["/callbackUrl"]
