"""All paths: the API of both rooms, the pages, the admin, and what operators ask."""

from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.defaults import bad_request, page_not_found, server_error

from config.openapi import document, page
from jobs.api import health, scrape
from jobs.api.errors import problem
from jobs.pages.signing_in import limited

urlpatterns = [
    path("api/", include("jobs.api.urls")),
    path("api/", include("notifications.api.urls")),
    path("api/schema", document.Schema.as_view(), name="schema"),
    path("api/docs", page.docs, name="docs"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", scrape.metrics),
    path("admin/login/", limited(admin.site.login)),
    path("admin/", admin.site.urls),
    path("", include("jobs.pages.urls")),
]


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what Django itself refuses: the API in its own format, pages as a page."""
    if not request.path.startswith("/api/"):
        return bad_request(request, exception)
    if isinstance(exception, DisallowedHost):
        return problem(request, HTTPStatus.BAD_REQUEST, "The Host header names none of the hosts of this server.")
    return problem(request, HTTPStatus.BAD_REQUEST, "The request is malformed.")


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer an unknown path: the API in its own format, pages as a page."""
    if request.path.startswith("/api/"):
        return problem(request, HTTPStatus.NOT_FOUND, "There is nothing at this path.")
    return page_not_found(request, exception)


def handler500(request: HttpRequest, *args: Any) -> HttpResponse:
    """Answer a fault of ours without a word of what it was."""
    if request.path.startswith("/api/"):
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here. It was written down.")
    return server_error(request)
