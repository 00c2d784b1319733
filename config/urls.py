"""All paths: the API of both rooms, the pages, the admin, and what operators ask."""

from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.defaults import page_not_found, server_error
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.views import SpectacularAPIView

from jobs.api import health
from jobs.api.errors import problem

SCHEMA_RENDERERS = [OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer2, OpenApiYamlRenderer]

urlpatterns = [
    path("api/", include("jobs.api.urls")),
    path("api/", include("notifications.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(renderer_classes=SCHEMA_RENDERERS), name="schema"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("admin/", admin.site.urls),
    path("", include("jobs.pages.urls")),
]


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
