"""Each operation of the API, called once: for the document's examples, for docs/api.md, and for the test of both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from tests.e2e.stack import Client
from tests.waiting import wait_until

CSV = b"city,population\nJakarta,10562088\nBandung,2444160\n"
NOBODY = "http://127.0.0.1:9/hook"  # the discard port, where nobody answers
PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to make."""

    operation: str
    """The operationId."""
    method: str
    path: str
    """With the query; `{names}` are those of `prepare`."""
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    is_form: bool = False
    """Whether the body goes as the part `job` of a form, beside a file."""

    @property
    def name(self) -> str:
        """Name it among the examples."""
        return f"{self.operation} with a file" if self.is_form else self.operation

    def made_by(self, client: Client, ids: dict[str, str]) -> tuple[str, Any, requests.Response]:
        """Make the request.

        Returns:
            The path and the body as they were sent, and the answer.
        """
        path = _filled(self.path, ids)
        body = {name: _filled(each, ids) if isinstance(each, str) else each for name, each in (self.body or {}).items()}
        if self.is_form:
            files: dict[str, Any] = {
                "job": (None, json.dumps(body), "application/json"),
                "file": ("cities.csv", CSV, "text/csv"),
            }
            sent = client.session.request(self.method, client.url + path, files=files, headers=self.headers, timeout=30)
        else:
            sent = client.session.request(
                self.method, client.url + path, json=body or None, headers=self.headers, timeout=30
            )
        return path, body or None, sent


def _filled(text: str, ids: dict[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: ids[found[1]], text)


COUNTDOWN: dict[str, Any] = {"kind": "demo.countdown", "params": {"seconds": 0.2, "steps": 2}}
CALLS = [
    Call(
        operation="submitJob",
        method="POST",
        path="/api/jobs",
        status=202,
        body={**COUNTDOWN, "tags": ["docs"], "metadata": {"order": "A-1042"}},
        headers={"Idempotency-Key": "order-A-1042"},
    ),
    Call(
        operation="submitJob",
        method="POST",
        path="/api/jobs",
        status=202,
        body={"kind": "csv.report", "params": {"delimiter": ","}},
        is_form=True,
    ),
    Call(operation="getJob", method="GET", path="/api/jobs/{finished}", status=200),
    Call(operation="getJobStatus", method="GET", path="/api/jobs/status/{finished}?wait=10", status=200),
    Call(operation="listJobs", method="GET", path="/api/jobs?kind=demo.countdown&status=COMPLETED&limit=1", status=200),
    Call(operation="listJobEvents", method="GET", path="/api/jobs/{finished}/events?after=2", status=200),
    Call(operation="cancelJob", method="POST", path="/api/jobs/{scheduled}/cancel", status=200),
    Call(operation="retryJob", method="POST", path="/api/jobs/{scheduled}/retry", status=202),
    Call(operation="rerunJob", method="POST", path="/api/jobs/{finished}/rerun", status=202, body={"priority": 5}),
    Call(
        operation="submitBatch",
        method="POST",
        path="/api/jobs/batch",
        status=202,
        body={"jobs": [COUNTDOWN, {**COUNTDOWN, "tags": ["second"]}]},
    ),
    Call(operation="getBatch", method="GET", path="/api/batches/{batch}?wait=10", status=200),
    Call(operation="deleteJob", method="DELETE", path="/api/jobs/{useless}", status=204),
    Call(operation="listEvents", method="GET", path="/api/events?cursor={cursor}", status=200),
    Call(operation="listKinds", method="GET", path="/api/kinds", status=200),
    Call(
        operation="createWebhook",
        method="POST",
        path="/api/webhooks",
        status=201,
        body={"url": NOBODY, "eventTypes": ["job.completed", "job.failed"]},
    ),
    Call(operation="listWebhooks", method="GET", path="/api/webhooks", status=200),
    Call(operation="getWebhook", method="GET", path="/api/webhooks/{webhook}", status=200),
    Call(operation="changeWebhook", method="PATCH", path="/api/webhooks/{webhook}", status=200, body={"active": False}),
    Call(operation="getWebhookSecret", method="GET", path="/api/webhooks/{webhook}/secret", status=200),
    Call(operation="deleteWebhook", method="DELETE", path="/api/webhooks/{webhook}", status=204),
    Call(operation="getCallbackSecret", method="GET", path="/api/callback-secret", status=200),
    Call(operation="listDeliveries", method="GET", path="/api/deliveries?job={called}", status=200),
    Call(operation="getDelivery", method="GET", path="/api/deliveries/{delivery}", status=200),
    Call(
        operation="createWatchToken", method="POST", path="/api/watch-tokens", status=201, body={"jobId": "{finished}"}
    ),
    Call(
        operation="createToken",
        method="POST",
        path="/api/tokens",
        status=201,
        body={"name": "web server of the shop", "scopes": ["read", "submit"]},
    ),
    Call(operation="listTokens", method="GET", path="/api/tokens", status=200),
    Call(operation="deleteToken", method="DELETE", path="/api/tokens/{token}", status=204),
]


def prepare(client: Client) -> dict[str, str]:
    """Make what the calls are about: jobs in several states, a webhook, a delivery that was tried, a token.

    Returns:
        Ids by the names that stand in the calls' paths.
    """
    cursor = client.get("/api/events").json()["next"]
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    ids = {
        "finished": client.submit(params=COUNTDOWN["params"]),
        "useless": client.submit(params=COUNTDOWN["params"]),
        "scheduled": client.submit(runAt=later),
        "called": client.submit(params=COUNTDOWN["params"], callbackUrl=NOBODY),
        "batch": client.post("/api/jobs/batch", {"jobs": [COUNTDOWN]}).json()["batchId"],
        "token": client.post("/api/tokens", {"name": "to be revoked"}).json()["id"],
        "cursor": cursor,
    }
    for name in ("finished", "useless", "called"):
        client.finished(ids[name])
    # Only now: a finished job with a delivery to make isn't deleted.
    ids["webhook"] = client.post("/api/webhooks", {"url": NOBODY, "eventTypes": ["job.*"]}).json()["id"]
    ids["delivery"] = wait_until(lambda: _tried_delivery(client, ids["called"]), 30, "a delivery's first attempt")
    return ids


def _tried_delivery(client: Client, job_id: str) -> str | None:
    items = client.get(f"/api/deliveries?job={job_id}").json()["items"]
    return next((each["id"] for each in items if each["attempts"]), None)


def made(client: Client) -> Iterator[tuple[Call, str, Any, requests.Response]]:
    """Make all calls, one after the other; gives each with its path and body as sent, and its answer."""
    ids = prepare(client)
    for call in CALLS:
        path, body, response = call.made_by(client, ids)
        yield call, path, body, response
