"""Turns whatever goes wrong into problem+json (RFC 9457), in one place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice
from math import ceil
from typing import Any

import psycopg_pool
from django.core.exceptions import PermissionDenied, RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from jobs.api.problem_members import problem_members
from jobs.failures import KeyReused, TooManyUnfinished, UniqueKeyTaken, WrongState
from jobs.log import NotRecovered

logger = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
DATABASE_AWAY_SECONDS = 5
MOST_FAULTS = 100


class Problem(exceptions.APIException):
    """A problem that has no exception of DRF's.

    Args:
        status: the HTTP status.
        detail: one sentence that tells the user what to do.
        errors: each fault, as `{pointer, detail, code}`.
    """

    def __init__(self, status: HTTPStatus, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status_code = status
        self.errors = errors or []


def problem_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an exception; DRF's exception handler. None leaves it to Django as a fault of ours."""
    match error:
        case Problem():
            status, detail, errors = error.status_code, str(error.detail), error.errors
        case exceptions.ValidationError():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            errors = list(islice(_faults(error.get_full_details(), ""), MOST_FAULTS))
            detail = "Some of this breaks a rule; see errors."
        case exceptions.APIException():
            status, detail, errors = error.status_code, str(error.detail), []
        case Http404():
            status, detail, errors = (
                HTTPStatus.NOT_FOUND,
                "There is nothing here, or nothing that you may see.",
                [],
            )
        case PermissionDenied():
            status, detail, errors = HTTPStatus.FORBIDDEN, "You may not do this.", []
        case RequestDataTooBig() | TooManyFieldsSent() | TooManyFilesSent():
            status, detail, errors = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large.", []
        case TooManyUnfinished():
            status, detail, errors = HTTPStatus.TOO_MANY_REQUESTS, str(error), []
        case WrongState() | UniqueKeyTaken():
            status, detail, errors = HTTPStatus.CONFLICT, str(error), []
        case KeyReused():
            status, detail, errors = HTTPStatus.UNPROCESSABLE_ENTITY, str(error), []
        case NotRecovered():
            status, detail, errors = HTTPStatus.GONE, str(error), []
        case OperationalError() | InterfaceError() | psycopg_pool.PoolTimeout():
            logger.warning("The database is away: %s", type(error).__name__)
            status, detail, errors = (
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The database is away. Try again shortly.",
                [],
            )
        case _:
            return None
    set_rollback()
    response = Response(problem_members(status, detail, errors), status=status, content_type=PROBLEM)
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = getattr(error, "auth_header", "Bearer")
    if challenge := getattr(error, "challenge", None):
        response["WWW-Authenticate"] = challenge
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        response["Retry-After"] = str(ceil(getattr(error, "wait", None) or TooManyUnfinished.RETRY_AFTER_SECONDS))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response["Retry-After"] = str(DATABASE_AWAY_SECONDS)
    return response


def problem(request: HttpRequest, status: HTTPStatus, detail: str) -> HttpResponse:
    """Answer outside DRF, such as an unknown path."""
    return JsonResponse(problem_members(status, detail), status=status, content_type=PROBLEM)


def _faults(details: Any, pointer: str) -> Iterator[dict[str, str]]:
    """Flatten DRF's nested details into faults with JSON pointers (RFC 6901)."""
    match details:
        case {"message": message, "code": code} if not isinstance(message, dict | list):
            yield {"pointer": pointer, "detail": str(message), "code": str(code)}
        case dict():
            for name, inner in details.items():
                part = "" if name == "non_field_errors" else f"/{str(name).replace('~', '~0').replace('/', '~1')}"
                yield from _faults(inner, pointer + part)
        case list():
            are_leaves = all(isinstance(each, dict) and set(each) == {"message", "code"} for each in details)
            for place, inner in enumerate(details):
                yield from _faults(inner, pointer if are_leaves else f"{pointer}/{place}")
