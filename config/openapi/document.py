"""`GET /api/schema`: the document, made once a process, for kinds are declared when it starts."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.utils import translation
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api.etags import conditional, content_etag


@cache
def document() -> dict[str, Any]:
    """Make the OpenAPI document of this installation, with the params of all its kinds."""
    with translation.override("en"):  # or it would stay in the language of whoever asks first
        made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


@extend_schema(exclude=True)
class Schema(APIView):
    """The OpenAPI document, open to all: it tells what can be asked, and nothing of anybody."""

    authentication_classes = []
    permission_classes = [AllowAny]
    renderer_classes = [OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer2, OpenApiYamlRenderer]

    def get(self, request: Request) -> Response:
        """Give it as JSON, or as YAML with `Accept: application/yaml`."""
        return conditional(request, content_etag(document(), request.accepted_media_type), document)
