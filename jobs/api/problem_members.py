"""The members of a problem (RFC 9457), for those too who answer before Django is asked."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any


def problem_members(status: int, detail: str, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Write a problem.

    Args:
        status: the HTTP status.
        detail: one sentence that tells the user what to do.
        errors: each fault, as `{pointer, detail, code}`.
    """
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "errors": list(errors),
    }
