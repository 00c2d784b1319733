"""The kinds of jobs over HTTP."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api.documented import IF_NONE_MATCH, UNCHANGED
from jobs.api.etags import conditional, content_etag
from jobs.api.params_schema import kind_as_dict
from jobs.api.serializers import KindSerializer, ProblemSerializer
from jobs.kinds import all_kinds


class Kinds(APIView):
    """What can be run."""

    @extend_schema(
        operation_id="listKinds",
        responses={200: KindSerializer(many=True), **UNCHANGED, 401: ProblemSerializer},
        parameters=[IF_NONE_MATCH],
    )
    def get(self, request: Request) -> Response:
        """List the kinds of jobs, with the JSON Schema of their params."""
        kinds = [kind_as_dict(each) for each in all_kinds()]
        return conditional(request, content_etag(kinds), lambda: kinds)
