"""Serves artifacts by signed URLs, so that a browser can show a job's report and nothing in it runs on our origin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from uuid import UUID

from django.db.models.fields.files import FieldFile
from django.http import FileResponse, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import require_safe

from jobs import artifact_urls
from jobs.api.errors import problem
from jobs.models import Artifact, Status

CHUNK_BYTES = 64 * 1024
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
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
    """Send a file, whole or one range of it (RFC 9110 §14)."""
    if not artifact_urls.is_valid(artifact_id, request.GET.get("expires", ""), request.GET.get("signature", "")):
        return problem(
            request,
            HTTPStatus.FORBIDDEN,
            "This URL was changed or has expired; read the job again for a new one.",
        )
    row = "\0" not in name and Artifact.objects.filter(pk=artifact_id, name=name, job__status=Status.COMPLETED).first()
    if not row or not row.file.storage.exists(str(row.file.name)):
        return problem(request, HTTPStatus.NOT_FOUND, "This file is gone; its job was removed or runs again.")
    response = _answer(request, row)
    response["ETag"] = f'"{row.sha256}"'
    response["Accept-Ranges"] = "bytes"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = SANDBOX
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    response["Cache-Control"] = "private, max-age=3600"
    is_download = "download" in request.GET or row.content_type.partition(";")[0] not in SHOWN_IN_PLACE
    response["Content-Disposition"] = content_disposition_header(is_download, row.name) or "attachment"
    return response


def _answer(request: HttpRequest, row: Artifact) -> HttpResponseBase:
    asked = RANGE.fullmatch(request.headers.get("Range", ""))
    condition = request.headers.get("If-Range")
    if not asked or not is_sound_range(asked[1], asked[2]) or (condition and condition != f'"{row.sha256}"'):
        whole = FileResponse(row.file.open("rb"), content_type=row.content_type)
        whole["Content-Length"] = str(row.size)
        return whole
    if asked[1]:
        first, last = int(asked[1]), min(int(asked[2]) if asked[2] else row.size, row.size - 1)
    else:
        first, last = max(0, row.size - int(asked[2])), row.size - 1
    if first > last:
        response: HttpResponseBase = problem(
            request, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"The file has {row.size:,} bytes."
        )
        response["Content-Range"] = f"bytes */{row.size}"
        return response
    response = StreamingHttpResponse(
        _part(row.file, first, last + 1 - first),
        status=HTTPStatus.PARTIAL_CONTENT,
        content_type=row.content_type,
    )
    response["Content-Range"] = f"bytes {first}-{last}/{row.size}"
    response["Content-Length"] = str(last + 1 - first)
    return response


def is_sound_range(first: str, last: str) -> bool:
    """Tell whether a range is one: `5-2` and `-` are ignored (RFC 9110 §14.1.1)."""
    return bool(first or last) and not (first and last and int(last) < int(first))


def _part(file: FieldFile, first: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk
