"""What operators' probes ask: whether the process is up, and whether all it needs is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus

import redis
from celery import current_app
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from jobs.api.errors import problem
from jobs.models import Worker
from jobs.sql import statements


def for_probes(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Let a view be read and nothing else; no form of ours leads here, so no CSRF token is looked for."""

    @csrf_exempt
    @wraps(view)
    def answer(request: HttpRequest) -> HttpResponse:
        if request.method in ("GET", "HEAD"):
            return view(request)
        refusal = problem(request, HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} is only read.")
        refusal["Allow"] = "GET, HEAD"
        return refusal

    return answer


@for_probes
def healthz(request: HttpRequest) -> HttpResponse:
    """Say that this process answers."""
    return JsonResponse({"status": "ok"})


@for_probes
def readyz(request: HttpRequest) -> HttpResponse:
    """Name each thing that jobs need, and whether it is there."""
    probes: dict[str, Callable[[], str]] = {
        "database": _database,
        "broker": check_broker,
        "workers": _workers,
        "sweeper": _sweeper,
    }
    found = {}
    for name, probe in probes.items():
        try:
            found[name] = probe()
        except Exception as error:
            found[name] = f"away ({type(error).__name__})"
    is_ready = all(each.startswith("ok") for each in found.values())
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JsonResponse({"status": "ok" if is_ready else "not ready", **found}, status=status)


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def check_broker() -> str:
    """Have the broker, and Redis, answer.

    Raises:
        Exception: one of them doesn't; of whatever library speaks to it.
    """
    redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1).ping()
    if settings.CELERY_BROKER_URL != settings.REDIS_URL:
        with current_app.connection_for_write(connect_timeout=1) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
    return "ok"


def _workers() -> str:
    queues = Worker.alive(statements().now()).values_list("queues", flat=True)
    count = sum("default" in each for each in queues)
    return f"ok ({count} seen)" if count else "away (none seen)"


def _sweeper() -> str:
    sweepers = Worker.alive(statements().now()).filter(slots=0)
    return "ok" if sweepers.exists() else "away (none seen)"
