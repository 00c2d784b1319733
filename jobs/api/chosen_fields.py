"""`?fields=jobId,status`: trims the Job wherever it is read."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from jobs.api.serializers import JobSerializer, SingleJobSerializer
from jobs.models import EventType

ESTIMATED = frozenset(("queuePosition", "estimatedFinishAt"))


@cache
def job_fields() -> frozenset[str]:
    """Name what lists and events show of a job."""
    return frozenset(JobSerializer().fields)


@cache
def single_job_fields() -> frozenset[str]:
    """Name what the single Job shows."""
    return frozenset(SingleJobSerializer().fields)


def chosen_fields(request: Request, among: frozenset[str]) -> frozenset[str] | None:
    """Read `?fields=`.

    Args:
        request: what is asked.
        among: the names that there are.

    Returns:
        The chosen names; None where all are wanted.

    Raises:
        ValidationError: there is no such name.
    """
    text = request.query_params.get("fields")
    if text is None:
        return None
    names = frozenset(text.split(","))
    if unknown := names - among:
        raise ValidationError({"fields": [f"There is no field {name!r} here." for name in sorted(unknown)]})
    return names


def trimmed(shown: dict[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    """Leave out of a Job what wasn't chosen."""
    return shown if names is None else {name: value for name, value in shown.items() if name in names}


def trimmed_event(envelope: dict[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    """Leave out of an event's Job what wasn't chosen; a Batch is shown whole."""
    if names is None or envelope["type"] == EventType.BATCH_COMPLETED:
        return envelope
    return envelope | {"data": trimmed(envelope["data"], names)}
