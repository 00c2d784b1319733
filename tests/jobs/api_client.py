"""A caller of the API inside the test's own process and transaction."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.test import Client

from jobs.credentials import create_token
from tests.factories import new_user

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.test.client import _MonkeyPatchedWSGIResponse as Response

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "errors"}


class Caller:
    """Somebody with a token.

    Args:
        user: whose token; a new user's if left out.
    """

    def __init__(self, user: User | None = None) -> None:
        self.user = user or new_user()
        self.client = Client(
            raise_request_exception=False, headers={"Authorization": f"Bearer {create_token(self.user, 'test')}"}
        )

    def get(self, path: str, query: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Response:
        return self.client.get(path, query, headers=headers)

    def delete(self, path: str, headers: dict[str, str] | None = None) -> Response:
        return self.client.delete(path, headers=headers)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        return self.client.post(path, json.dumps(body), content_type="application/json", headers=headers)

    def submit(self, **fields: Any) -> Response:
        """Submit a countdown, or whatever the fields say."""
        return self.post("/api/jobs", {"kind": "demo.countdown"} | fields)

    def send(
        self, body: bytes | str, content_type: str = "application/json", headers: dict[str, str] | None = None
    ) -> Response:
        """Submit a body as it stands."""
        return self.client.post("/api/jobs", body, content_type=content_type, headers=headers)


def check_problem(response: Response, status: int) -> dict[str, Any]:
    """Check that an answer is a problem (RFC 9457) of this status, and give it."""
    assert response.status_code == status, (response.status_code, response.content[:500])
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert set(body) == PROBLEM_MEMBERS
    assert (body["status"], body["title"]) == (status, HTTPStatus(status).phrase)
    assert body["detail"]
    for fault in body["errors"]:
        assert set(fault) == {"pointer", "detail", "code"}
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
    return body


def pointers_of(response: Response, status: int = 422) -> list[str]:
    """List the places of the faults that a problem names."""
    return [fault["pointer"] for fault in check_problem(response, status)["errors"]]
