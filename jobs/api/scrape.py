"""`GET /metrics`, for Prometheus: who may read, and all there is to read (`docs/metrics.md`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jobs.api.errors import problem
from jobs.api.health import check_broker, for_probes
from jobs.metrics import files, gauges

logger = logging.getLogger(__name__)

OF_PROXIES = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""A request with any of these was made by somebody else than the address that it comes from."""


@for_probes
def metrics(request: HttpRequest) -> HttpResponse:
    """Give all counts and gauges, in the format that the reader asks for."""
    if settings.METRICS_TOKEN:
        if not brings_token(request):
            refusal = problem(request, HTTPStatus.UNAUTHORIZED, "Bring KABAR_METRICS_TOKEN as a bearer token.")
            refusal["WWW-Authenticate"] = "Bearer"
            return refusal
    elif not is_from_here(request):
        detail = "Metrics are read on this machine only, and by no proxy. KABAR_METRICS_TOKEN opens them elsewhere."
        return problem(request, HTTPStatus.FORBIDDEN, detail)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    response = HttpResponse(encode(_everything), content_type=content_type)
    response["Cache-Control"] = "no-store"
    return response


def brings_token(request: HttpRequest) -> bool:
    """Tell whether a request has the token of the settings."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and constant_time_compare(token.strip(), settings.METRICS_TOKEN)


def is_from_here(request: HttpRequest) -> bool:
    """Tell whether a request comes from this machine, and not through a proxy on it."""
    if any(name in request.headers for name in OF_PROXIES):
        return False
    try:
        address = ip_address(request.META.get("REMOTE_ADDR") or "")
    except ValueError:  # a socket that has no address
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


class Everything(Collector):
    """All metrics of this host's processes and of the database."""

    def __init__(self) -> None:
        self._standing = gauges.Standing()

    def collect(self) -> Iterator[Metric]:
        """Give them; what can't be read is left out."""
        yield GaugeMetricFamily("kabar_broker_up", "Whether the broker answers.", value=is_broker_up())
        yield from self._standing.collect()
        try:
            yield from files.read()
        except Exception:  # a damaged file is replaced when a process takes its place
            logger.warning("The counts can't be read", exc_info=True)


def is_broker_up() -> bool:
    """Tell whether the broker answers."""
    try:
        check_broker()
    except Exception:
        return False
    return True


_everything = Everything()
