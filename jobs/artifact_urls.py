"""Signed URLs of artifacts: they need no other credential, name one file, and end.

The expiry is rounded up to whole windows, so that a Job read twice in a window shows the same URLs and keeps its
`ETag`.
"""

from __future__ import annotations

import time
from urllib.parse import quote, urlencode
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer

from jobs.models import Artifact

WINDOW_SECONDS = 3600


def window() -> int:
    """Number the present window; it is part of the `ETag` of whatever shows signed URLs."""
    return int(time.time()) // WINDOW_SECONDS


def signed_url(artifact: Artifact) -> str:
    """Make the absolute URL of an artifact, good for `ARTIFACT_URL_SECONDS` and up to a window more."""
    expires = (window() + 1) * WINDOW_SECONDS + settings.ARTIFACT_URL_SECONDS
    query = urlencode({"expires": expires, "signature": _signature(artifact.id, expires)})
    return f"{settings.PUBLIC_URL}/api/artifacts/{artifact.id}/{quote(artifact.name, safe='')}?{query}"


def is_valid(artifact_id: UUID, expires: str, signature: str) -> bool:
    """Tell whether a URL's signature is ours and its time hasn't passed."""
    if not expires.isascii() or not expires.isdigit() or len(expires) > 12:
        return False
    try:
        _signer().unsign(f"{artifact_id}/{int(expires)}:{signature}")
    except BadSignature:
        return False
    return int(expires) > time.time()


def _signature(artifact_id: UUID, expires: int) -> str:
    return _signer().signature(f"{artifact_id}/{expires}")


def _signer() -> Signer:
    return Signer(salt="jobs.artifact")
