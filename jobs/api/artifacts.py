"""Serves artifacts by signed URLs, so that a browser can show a job's report and nothing in it runs on our origin.

A file is read bit by bit as it is sent, from whatever storage Django has it in.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import IO, cast
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date, parse_http_date_safe
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import require_safe

from jobs import artifact_urls
from jobs.api.byte_ranges import ByteRange, NoneSatisfiable, Parts, multipart, ranges_of
from jobs.api.errors import problem
from jobs.models import Artifact, Status

SHOWN_IN_PLACE = (
    "text/html",
    "text/plain",
    "application/json",
    "application/pdf",
    "image/png",
    "image/jpeg",
    "image/gif",
)
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


@require_safe
@xframe_options_exempt
def artifact(request: HttpRequest, artifact_id: UUID, name: str) -> HttpResponseBase:
    """Send a file, whole or in ranges, or say that the client's copy is still good (RFC 9110 §13 and §14)."""
    if not artifact_urls.is_valid(artifact_id, request.GET.get("expires", ""), request.GET.get("signature", "")):
        return problem(
            request,
            HTTPStatus.FORBIDDEN,
            "This URL was changed or has expired; read the job again for a new one.",
        )
    row = None
    if "\0" not in name:
        row = Artifact.objects.filter(pk=artifact_id, name=name, job__status=Status.COMPLETED).first()
    file = opened(row) if row else None
    if row is None or file is None:
        return problem(request, HTTPStatus.NOT_FOUND, "This file is gone; its job was removed or runs again.")
    response = answer(request, row, file)
    if not response.streaming:
        file.close()
    response["ETag"] = etag_of(row)
    response["Last-Modified"] = http_date(last_modified(row))
    response["Accept-Ranges"] = "bytes"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = SANDBOX
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    response["Cache-Control"] = "private, max-age=3600"
    if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        is_download = "download" in request.GET or row.content_type.partition(";")[0] not in SHOWN_IN_PLACE
        response["Content-Disposition"] = content_disposition_header(is_download, row.name) or "attachment"
    return response


def answer(request: HttpRequest, row: Artifact, file: IO[bytes]) -> HttpResponseBase:
    """Answer with the file, as the request's conditions and ranges have it; only what streams still needs it open."""
    unmet: HttpResponse | None = get_conditional_response(
        request, etag=etag_of(row), last_modified=last_modified(row), response=None
    )
    if unmet is not None:
        return unmet
    if request.method == "HEAD":  # has no ranges (§14.2)
        head = HttpResponse(content_type=row.content_type)
        head["Content-Length"] = str(row.size)
        return head
    try:
        ranges = ranges_of(request.headers.get("Range", ""), row.size) if is_range_of_this(request, row) else []
    except NoneSatisfiable:
        refused = problem(request, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"The file has {row.size:,} bytes.")
        refused["Content-Range"] = f"bytes */{row.size}"
        return refused
    match ranges:
        case []:
            return streamed(
                Parts(file, [(b"", ByteRange(first=0, last=row.size - 1))]), HTTPStatus.OK, row.content_type
            )
        case [only]:
            response = streamed(Parts(file, [(b"", only)]), HTTPStatus.PARTIAL_CONTENT, row.content_type)
            response["Content-Range"] = only.content_range(row.size)
            return response
        case _:
            content_type, parts = multipart(file, ranges, row.size, row.content_type)
            return streamed(parts, HTTPStatus.PARTIAL_CONTENT, content_type)


def streamed(parts: Parts, status: HTTPStatus, content_type: str) -> StreamingHttpResponse:
    """Send parts of a file as they are read."""
    response = StreamingHttpResponse(parts, status=status, content_type=content_type)
    response["Content-Length"] = str(parts.length)
    return response


def opened(row: Artifact) -> IO[bytes] | None:
    """Open an artifact's file; None where it isn't there any more."""
    try:
        file = row.file.open("rb")
        file.seek(0)  # some storages look for the file only when something is read
    except FileNotFoundError:
        return None
    return cast("IO[bytes]", file)


def is_range_of_this(request: HttpRequest, row: Artifact) -> bool:
    """Tell whether `If-Range`, if it is there, names the file as it is: its strong tag or its exact date (§13.1.5)."""
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    return condition == etag_of(row) or parse_http_date_safe(condition) == last_modified(row)


def etag_of(row: Artifact) -> str:
    return f'"{row.sha256}"'


def last_modified(row: Artifact) -> int:
    """Give the time that the file was attached, in whole seconds as HTTP has them; it never changes afterwards."""
    return int(row.created_at.timestamp())
