"""Who may do what: each endpoint of the API with each sort of caller. One that isn't in the table fails the test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Group
from django.core.files.base import ContentFile
from django.test import Client
from django.utils import timezone

from jobs import lifecycle
from jobs.artifact_urls import signed_url
from jobs.credentials import make_token, make_watch_token
from jobs.lifecycle import Outcome
from jobs.models import Artifact, Job, Scope
from notifications.models import Delivery
from tests.factories import claimed_job, new_job, new_user
from tests.jobs.api_client import check_problem
from tests.jobs.test_api import api_paths

if TYPE_CHECKING:
    from django.contrib.auth.models import User

pytestmark = pytest.mark.django_db

CALLERS = ("owner", "mate", "stranger", "staff", "anonymous", "revoked", "watch", "read_only")
"""The last two are tokens of the owner."""

# What `CALLERS` are answered, in their order, by the name of the path and the method.
MATRIX: dict[tuple[str, str], tuple[int, ...]] = {
    # Jobs: the owner and staff change, team mates read.
    ("jobs", "get"): (200, 200, 200, 200, 401, 401, 403, 200),
    ("jobs", "post"): (202, 202, 202, 202, 401, 401, 403, 403),
    ("job", "get"): (200, 200, 404, 200, 401, 401, 200, 200),
    ("job", "delete"): (204, 403, 404, 204, 401, 401, 403, 403),
    ("job-status", "get"): (200, 200, 404, 200, 401, 401, 200, 200),
    ("job-cancel", "post"): (200, 403, 404, 200, 401, 401, 403, 403),
    ("job-retry", "post"): (202, 403, 404, 202, 401, 401, 403, 403),
    ("job-rerun", "post"): (202, 403, 404, 202, 401, 401, 403, 403),
    ("job-events", "get"): (200, 200, 404, 200, 401, 401, 200, 200),
    ("batches", "post"): (202, 202, 202, 202, 401, 401, 403, 403),
    ("batch", "get"): (200, 200, 404, 200, 401, 401, 200, 200),
    ("events", "get"): (200, 200, 200, 200, 401, 401, 200, 200),
    ("kinds", "get"): (200, 200, 200, 200, 401, 401, 403, 200),
    # One's own: staff see no more than others.
    ("watch-tokens", "post"): (201, 201, 201, 201, 401, 401, 403, 201),
    ("tokens", "get"): (200, 200, 200, 200, 401, 401, 403, 403),
    ("tokens", "post"): (201, 201, 201, 201, 401, 401, 403, 403),
    ("token", "delete"): (204, 404, 404, 404, 401, 401, 403, 403),
    ("webhooks", "get"): (200, 200, 200, 200, 401, 401, 403, 200),
    ("webhooks", "post"): (201, 201, 201, 201, 401, 401, 403, 403),
    ("webhook", "get"): (200, 404, 404, 404, 401, 401, 403, 200),
    ("webhook", "patch"): (200, 404, 404, 404, 401, 401, 403, 403),
    ("webhook", "delete"): (204, 404, 404, 404, 401, 401, 403, 403),
    ("webhook-secret", "get"): (200, 404, 404, 404, 401, 401, 403, 403),
    ("callback-secret", "get"): (200, 200, 200, 200, 401, 401, 403, 403),
    ("deliveries", "get"): (200, 200, 200, 200, 401, 401, 403, 200),
    ("delivery", "get"): (200, 404, 404, 404, 401, 401, 403, 200),
    # Open: the document, and files by their signed URLs.
    ("schema", "get"): (200, 200, 200, 200, 200, 200, 200, 200),
    ("docs", "get"): (200, 200, 200, 200, 200, 200, 200, 200),
    ("artifact", "get"): (200, 200, 200, 200, 200, 200, 200, 200),
}

COUNTDOWN = {"kind": "demo.countdown"}
BODIES: dict[tuple[str, str], Any] = {
    ("jobs", "post"): COUNTDOWN,
    ("batches", "post"): {"jobs": [COUNTDOWN, COUNTDOWN]},
    ("tokens", "post"): {"name": "another"},
    ("webhooks", "post"): {"url": "https://1.1.1.1/other", "eventTypes": ["job.*"]},
}


class House:
    """An owner with a team, and others."""

    def __init__(self) -> None:
        self.team = Group.objects.create(name="desk")
        self.owner = new_user()
        self.mate = new_user()
        self.stranger = new_user()
        self.staff = new_user(is_staff=True)
        for each in (self.owner, self.mate):
            each.groups.add(self.team)

    def client(self, caller: str) -> Client:
        """Give a caller's client."""
        match caller:
            case "anonymous":
                return Client(raise_request_exception=False)
            case "revoked":
                made = make_token(self.owner, "revoked")
                made.row.delete()
                return bearer(made.text)
            case "watch":
                parent = make_token(self.owner, "parent").row
                lasts = timedelta(minutes=1)
                watch = make_watch_token(self.owner, expires_in=lasts, job_id=None, parent=parent, session=None)
                return bearer(watch.text)
            case "read_only":
                return bearer(make_token(self.owner, "read only", scopes=[Scope.READ]).text)
            case _:
                user: User = getattr(self, caller)
                return bearer(make_token(user, caller).text)

    def job(self, name: str) -> Job:
        """Make a job of the owner and the team that stands where an endpoint needs it."""
        values: dict[str, Any] = {"team_id": self.team.pk, "max_attempts": 1}
        if name == "job-cancel":
            return new_job(self.owner, **values)
        job = claimed_job(self.owner, **values)
        error = {"code": "broken", "message": "It broke."} if name == "job-retry" else None
        lifecycle.finish([Outcome(job=job, result=None, error=error)])
        return Job.objects.get(pk=job.pk)

    def argument(self, argument: str, name: str) -> dict[str, str]:
        """Make what a part of a path names, and give the parts of the path that name it."""
        post: Callable[..., Any] = self.client("owner").post
        match argument:
            case "job_id":
                return {argument: str(self.job(name).pk)}
            case "batch_id":
                jobs = [COUNTDOWN | {"team": self.team.name}] * 2
                made = post("/api/jobs/batch", json.dumps({"jobs": jobs}), content_type="application/json")
                return {argument: made.json()["batchId"]}
            case "webhook_id":
                body = {"url": "https://1.1.1.1/hook", "eventTypes": ["job.*"]}
                return {argument: post("/api/webhooks", body, content_type="application/json").json()["id"]}
            case "token_id":
                return {argument: str(make_token(self.owner, "to be revoked").row.id)}
            case "delivery_id":
                new_job(self.owner, callback_url="https://1.1.1.1/hook", callback_events=["job.accepted"])
                return {argument: str(Delivery.objects.get().pk)}
            case "artifact_id":
                return {argument: str(artifact_of(self.job(name)).pk)}
            case "name":
                return {}
        raise AssertionError(f"make what {argument} names")

    def path(self, name: str) -> str:
        """Give an endpoint's path, filled in with something of the owner's."""
        (route,) = [route for route, pattern in api_paths() if pattern.name == name]
        arguments: dict[str, str] = {}
        for argument in re.findall(r"<[a-z]+:(\w+)>", route):
            arguments |= self.argument(argument, name)
        if name == "artifact":
            url = urlsplit(signed_url(Artifact.objects.get()))
            return f"{url.path}?{url.query}"
        for argument, value in arguments.items():
            route = re.sub(f"<[a-z]+:{argument}>", value, route)
        return f"/{route}"


def bearer(text: str) -> Client:
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {text}"})


def artifact_of(job: Job) -> Artifact:
    artifact = Artifact(
        job=job,
        fence=job.fence,
        attempt=1,
        name="out.txt",
        content_type="text/plain",
        size=1,
        sha256="0" * 64,
        created_at=timezone.now(),
    )
    artifact.file.save(f"artifacts/{job.id}/{artifact.id}", ContentFile(b"x"))
    return artifact


def endpoints() -> set[tuple[str, str]]:
    """List the API's endpoints from the URL conf: the names of paths, and the methods that are served there."""
    found = set()
    for _, pattern in api_paths():
        view = getattr(pattern.callback, "view_class", None)
        allowed = set(getattr(view, "http_method_names", ["get"])) - {"options", "head"}
        for method in allowed if view is None else {each for each in allowed if hasattr(view, each)}:
            found.add((str(pattern.name), method))
    return found


def test_each_endpoint_is_in_the_table() -> None:
    assert endpoints() == set(MATRIX)


@pytest.mark.parametrize("place", range(len(CALLERS)), ids=CALLERS)
@pytest.mark.parametrize("endpoint", MATRIX, ids=lambda each: f"{each[1]}-{each[0]}")
def test_each_caller_is_answered_as_the_table_says(endpoint: tuple[str, str], place: int) -> None:
    name, method = endpoint
    caller, expected = CALLERS[place], MATRIX[endpoint][place]
    house = House()
    path = house.path(name)
    options = (
        {} if method == "get" else {"content_type": "application/json", "data": json.dumps(BODIES.get(endpoint, {}))}
    )
    response = getattr(house.client(caller), method)(path, **options)
    response.close()
    if expected < HTTPStatus.BAD_REQUEST:
        assert response.status_code == expected
    else:
        check_problem(response, expected)
    challenge = response.headers.get("WWW-Authenticate")
    if expected == HTTPStatus.UNAUTHORIZED:
        assert challenge
        assert challenge.startswith("Bearer")
    elif expected == HTTPStatus.FORBIDDEN and caller in ("watch", "read_only"):
        assert challenge
        assert challenge.startswith('Bearer error="insufficient_scope", scope="')
    else:
        assert challenge is None
