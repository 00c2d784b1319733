"""How many statements each operation costs, pinned: one more is a decision, and a new operation says its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from config.openapi.document import document
from jobs import lifecycle
from jobs.lifecycle import Outcome
from notifications.models import Delivery
from tests.factories import claimed_job, new_job
from tests.jobs.api_client import Caller

pytestmark = pytest.mark.django_db

WEBHOOK = {"url": "https://1.1.1.1/hook", "eventTypes": ["job.*"]}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A request, and the statements that it may cost, savepoints among them."""

    method: str
    path: str
    status: int
    statements: int
    on_postgresql: int | None = None
    """Where it isn't the same."""
    body: Any = None


COSTS = {
    "submitJob": Cost(
        method="POST", path="/api/jobs", body={"kind": "demo.countdown"}, status=202, statements=11, on_postgresql=10
    ),
    "submitBatch": Cost(
        method="POST",
        path="/api/jobs/batch",
        body={"jobs": [{"kind": "demo.countdown"}] * 5},
        status=202,
        statements=15,
    ),
    "getBatch": Cost(method="GET", path="/api/batches/{batch}", status=200, statements=4),
    "listJobs": Cost(method="GET", path="/api/jobs", status=200, statements=4),
    "getJob": Cost(method="GET", path="/api/jobs/{finished}", status=200, statements=2),
    "getJobStatus": Cost(method="GET", path="/api/jobs/status/{finished}", status=200, statements=2),
    "listJobEvents": Cost(method="GET", path="/api/jobs/{finished}/events", status=200, statements=6),
    "listEvents": Cost(method="GET", path="/api/events?cursor={cursor}", status=200, statements=4),
    "cancelJob": Cost(method="POST", path="/api/jobs/{pending}/cancel", status=200, statements=13, on_postgresql=14),
    "retryJob": Cost(method="POST", path="/api/jobs/{cancelled}/retry", status=202, statements=18, on_postgresql=17),
    "rerunJob": Cost(method="POST", path="/api/jobs/{finished}/rerun", status=202, statements=15, on_postgresql=14),
    "deleteJob": Cost(method="DELETE", path="/api/jobs/{finished}?force=true", status=204, statements=22),
    "listKinds": Cost(method="GET", path="/api/kinds", status=200, statements=1),
    "listWebhooks": Cost(method="GET", path="/api/webhooks", status=200, statements=2),
    "createWebhook": Cost(method="POST", path="/api/webhooks", body=WEBHOOK, status=201, statements=3),
    "getWebhook": Cost(method="GET", path="/api/webhooks/{webhook}", status=200, statements=2),
    "changeWebhook": Cost(
        method="PATCH", path="/api/webhooks/{webhook}", body={"active": False}, status=200, statements=3
    ),
    "deleteWebhook": Cost(method="DELETE", path="/api/webhooks/{webhook}", status=204, statements=13),
    "getWebhookSecret": Cost(method="GET", path="/api/webhooks/{webhook}/secret", status=200, statements=2),
    "getCallbackSecret": Cost(method="GET", path="/api/callback-secret", status=200, statements=2),
    "listDeliveries": Cost(method="GET", path="/api/deliveries", status=200, statements=3),
    "getDelivery": Cost(method="GET", path="/api/deliveries/{delivery}", status=200, statements=3),
    "createWatchToken": Cost(method="POST", path="/api/watch-tokens", body={}, status=201, statements=2),
    "listTokens": Cost(method="GET", path="/api/tokens", status=200, statements=2),
    "createToken": Cost(method="POST", path="/api/tokens", body={"name": "web"}, status=201, statements=2),
    "deleteToken": Cost(method="DELETE", path="/api/tokens/{token}", status=204, statements=4),
}


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def ids(caller: Caller) -> dict[str, Any]:
    """Make several of each thing, so that a statement for each of them would be seen."""
    made = {
        "cursor": caller.get("/api/events").json()["next"],
        "webhook": caller.post("/api/webhooks", WEBHOOK).json()["id"],
    }
    for _ in range(3):
        job = claimed_job(caller.user, callback_url="https://1.1.1.1/")
        lifecycle.finish([Outcome(job=job, result={})])
        made["token"] = caller.post("/api/tokens", {"name": "web"}).json()["id"]
    made |= {"finished": job.pk, "pending": new_job(caller.user).pk, "cancelled": new_job(caller.user).pk}
    lifecycle.cancel(made["cancelled"])
    jobs = [{"kind": "demo.countdown"}] * 3
    made["batch"] = caller.post("/api/jobs/batch", {"jobs": jobs}).json()["batchId"]
    made["delivery"] = Delivery.objects.filter(job=job).first().pk  # type: ignore[union-attr]
    assert caller.get("/api/callback-secret").status_code == 200  # made now
    return made


def test_each_operation_says_what_it_costs() -> None:
    operations = {each["operationId"] for methods in document()["paths"].values() for each in methods.values()}
    assert set(COSTS) == operations


@pytest.mark.parametrize("operation", COSTS)
def test_an_operation_costs_a_fixed_number_of_statements(caller: Caller, ids: dict[str, Any], operation: str) -> None:
    cost = COSTS[operation]
    body = "" if cost.body is None else json.dumps(cost.body)
    with CaptureQueriesContext(connection) as seen:
        response = caller.client.generic(cost.method, cost.path.format(**ids), body, "application/json")
    assert response.status_code == cost.status, response.content
    is_postgresql = connection.vendor == "postgresql"
    allowed = cost.on_postgresql if is_postgresql and cost.on_postgresql is not None else cost.statements
    assert len(seen) == allowed, "\n".join(str(each["sql"]) for each in seen)
