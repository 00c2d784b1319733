"""`GET /metrics` of a real stack: what Prometheus reads after jobs ran, and after processes died."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import requests

from jobs.sweeper import duties
from tests.e2e.stack import ROOT, Client, Stack, running_stack
from tests.metrics import Scrape
from tests.waiting import wait_until

KIND = "work.short"
DUTIES = {each.name for each in duties()}
BOUNDED = {
    "kind": re.compile(r"work\.[a-z_]+|demo\.countdown|csv\.report|video\.transcode|other"),
    "queue": re.compile(r"default|threads|elsewhere|webhooks|other|[a-z_]+"),
    "status": re.compile(r"completed|failed|cancelled|delivered|[1-5]\d\d"),
    "reason": re.compile(r"failure|worker_lost|worker_stopped|asked"),
    "outcome": re.compile(r"delivered|retry|failed"),
    "method": re.compile(r"GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|other"),
    "door": re.compile(r"websocket|stream|held"),
    "duty": re.compile("|".join(DUTIES)),
    "route": re.compile(r"unmatched|/(api/|metrics|readyz|healthz|admin/|jobs/|start|sign-|preferences|rows)?.*"),
    "le": re.compile(r"[\d.e+-]+|\+Inf"),
}
SECONDS = 20.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a Kabar whose workers know the kinds of `workload`."""
    data = tmp_path_factory.mktemp("metrics")
    with running_stack(data, new_database_url(), KABAR_APPS="tests.e2e.workload") as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client()


def scrape(stack: Stack) -> Scrape:
    response = requests.get(f"{stack.url}/metrics", timeout=10)
    assert response.status_code == 200, response.text
    return Scrape.of_text(response.text)


def completed(stack: Stack) -> float:
    return scrape(stack).value("kabar_jobs_finished_total", kind=KIND, status="completed")


def test_jobs_are_counted_once_though_a_child_is_killed(stack: Stack, client: Client) -> None:
    before = scrape(stack)
    ids = [client.submit(KIND, {"kills": place == 5}) for place in range(20)]
    for job_id in ids:
        assert client.finished(job_id)["status"] == "COMPLETED"
    logs = [client.get(f"/api/jobs/{job_id}/events").json()["events"] for job_id in ids]
    told = Counter(event["type"] for log in logs for event in log)
    # One was killed; what had begun beside it in the hand, if anything had, was put back without its fault.
    expected = {
        "kabar_jobs_accepted_total": 20,
        "kabar_jobs_finished_total": 20,
        "kabar_jobs_crashed_total": 1,
        "kabar_jobs_retried_total": told["job.retrying"],
        "kabar_leases_lost_total": 0,
    }

    def grown() -> dict[str, float]:
        after = scrape(stack)
        return {name: after.total(name, kind=KIND) - before.total(name, kind=KIND) for name in expected}

    # Counts follow the commits that the client saw.
    wait_until(lambda: grown() == expected, SECONDS, describe=f"{expected}, and it is {grown()}")
    after = scrape(stack)
    assert told["job.retrying"] >= 1
    assert after.value("kabar_handler_duration_seconds_count", kind=KIND) >= 20
    waits = "kabar_queue_wait_seconds_count"
    assert after.value(waits, queue="default") - before.value(waits, queue="default") >= 21
    wait_until(lambda: scrape(stack).value("kabar_queue_pending", queue="default") == 0, SECONDS)
    assert grown() == expected


def test_what_dead_processes_counted_stays_and_no_files_pile_up(stack: Stack, client: Client) -> None:
    client.finished(client.submit(KIND))
    wait_until(lambda: completed(stack) > 0, SECONDS)
    for _ in range(3):
        before, standing = completed(stack), len(list((stack.data / "metrics").iterdir()))
        result = client.finished(client.submit(KIND))["result"]
        wait_until(lambda expected=before + 1: completed(stack) == expected, SECONDS)  # type: ignore[misc]
        os.kill(result, signal.SIGKILL)  # its child has done all that it will
        assert client.finished(client.submit(KIND))["status"] == "COMPLETED"
        wait_until(lambda expected=before + 2: completed(stack) == expected, SECONDS)  # type: ignore[misc]
    # A child's place is free once it is dead: another may have been taken only while it died.
    assert len(list((stack.data / "metrics").iterdir())) <= standing + 5


def test_requests_sockets_and_rounds_are_counted(stack: Stack, client: Client) -> None:
    job_id = client.submit(KIND)
    client.finished(job_id)
    before = scrape(stack)
    assert client.get(f"/api/jobs/status/{job_id}").status_code == 200
    assert client.get(f"/api/jobs/status/{job_id}").status_code == 200
    assert client.get("/api/jobs/status/not-an-id").status_code == 404
    after = scrape(stack)
    polls = {"route": "/api/jobs/status/<uuid:job_id>", "method": "GET", "status": "200"}
    assert after.value("kabar_http_requests_total", **polls) == before.value("kabar_http_requests_total", **polls) + 2
    assert after.total("kabar_http_requests_total", route="unmatched", status="404") >= 1
    assert after.value("kabar_http_request_duration_seconds_count", route=polls["route"]) >= 2
    assert after.total("kabar_http_requests_total", route="/api/jobs", method="POST", status="202") >= 1

    with client.get("/api/events", headers={"Accept": "text/event-stream"}, stream=True) as stream:
        assert stream.status_code == 200
        assert scrape(stack).value("kabar_connections", door="stream") == 1
    wait_until(lambda: scrape(stack).value("kabar_connections", door="stream") == 0, SECONDS)

    def is_swept() -> bool:
        return all(scrape(stack).value("kabar_sweeper_last_round_timestamp_seconds", duty=duty) for duty in DUTIES)

    wait_until(is_swept, SECONDS + 10)  # the first rescue waits for two beats of workers
    found = scrape(stack)
    assert found.value("kabar_sweepers") == 1
    assert found.value("kabar_database_up") == found.value("kabar_broker_up") == 1
    # Children that were killed are thought to live for a while.
    assert found.value("kabar_queue_slots", queue="default") >= 2


def test_labels_are_bounded(stack: Stack, client: Client) -> None:
    """No id, no user, and no word of a client's ends in a label."""
    client.get("/api/jobs/01980000-0000-7000-8000-000000000000")
    client.get("/nowhere/at/all")
    client.session.request("BREW", f"{stack.url}/api/jobs", timeout=10)
    client.post("/api/jobs", {"kind": "no.such.kind"})
    found = scrape(stack)
    for (name, labels), _ in found.samples.items():
        for label, value in labels:
            assert BOUNDED[label].fullmatch(value), (name, label, value)
            assert not re.search(r"[0-9a-f]{8}-", value), (name, label, value)
            assert "nowhere" not in value
    assert found.total("kabar_http_requests_total", method="other") == 1
    told = (ROOT / "docs" / "metrics.md").read_text()
    for family in found.families.values():
        assert family.documentation, family.name
        assert f"`{family.name}" in told, f"docs/metrics.md doesn't tell of {family.name}"


def test_the_sweeper_is_part_of_being_ready(stack: Stack) -> None:
    ready = requests.get(f"{stack.url}/readyz", timeout=5)
    assert (ready.status_code, ready.json()["sweeper"]) == (200, "ok")
