"""What the views say of themselves in the OpenAPI document, where several say the same."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

from jobs.api.serializers import ProblemSerializer

PROBLEMS = {
    400: ProblemSerializer,
    401: ProblemSerializer,
    404: ProblemSerializer,
    422: ProblemSerializer,
    503: ProblemSerializer,
}
UNCHANGED = {304: OpenApiResponse(description="As `If-None-Match` has it.")}
IF_NONE_MATCH = OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER)
WAIT = OpenApiParameter("wait", int, description="Hold the answer up to so many seconds (1 to 60) until it changes.")
FIELDS = OpenApiParameter(
    "fields", str, description="Names of the Job with commas between; all else is left out: `jobId,status,result`."
)
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="1 to 255 characters; the same key with the same body makes nothing more within 24 hours.",
)
PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="`wait=N`: hold the answer up to N seconds (60 at most) until the job ends (RFC 7240).",
)
