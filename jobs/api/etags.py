"""Tags of what is read, and the answer to whoever has it already (RFC 9110 §8.8.3, §13.1.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from django.utils.http import parse_etags
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import artifact_urls
from jobs.representation import as_json


def job_etag(version: int) -> str:
    """Name a job's state: its version, and the window of its signed URLs; estimates stand outside."""
    return f'W/"{version}-{artifact_urls.window()}"'


def is_among(etag: str, known: Iterable[str]) -> bool:
    """Compare weakly, as `If-None-Match` has it (RFC 9110 §8.8.3.2)."""
    return any(each == "*" or each.removeprefix("W/") == etag.removeprefix("W/") for each in known)


def content_etag(*parts: Any) -> str:
    """Name what an answer is made of, as JSON has it, and the window of the signed URLs in it."""
    digest = sha256(as_json([*parts, artifact_urls.window()]).encode()).hexdigest()
    return f'W/"{digest[:32]}"'


def known_etags(request: Request) -> list[str]:
    """Read which states the asker has."""
    return parse_etags(request.headers.get("If-None-Match", ""))


def is_news_awaited(request: Request, response: Response) -> bool:
    """Tell whether an answer says nothing new: the asker has this state already, or has none and asks for the end."""
    return response.status_code == HTTPStatus.NOT_MODIFIED or not known_etags(request)


def conditional(request: Request, etag: str, show: Callable[[], Any]) -> Response:
    """Answer a read: 304 to whoever has this state, and what it is to others."""
    is_known = is_among(etag, known_etags(request))
    response = Response(status=HTTPStatus.NOT_MODIFIED) if is_known else Response(show())
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    return response
