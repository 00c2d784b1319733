"""Signatures of webhooks after Standard Webhooks 1.0, which receivers verify with any of its libraries."""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 the prefix that tells what a secret is for
SECRET_BYTES = 32


def new_secret() -> str:
    """A fresh secret, `whsec_` and 32 random bytes in base64 (the specification asks for 24 to 64)."""
    return SECRET_PREFIX + base64.b64encode(randomness.token_bytes(SECRET_BYTES)).decode("ascii")


def signed_headers(
    *, secrets: Sequence[str], event_id: str, sent_at: datetime, body: bytes, version: str
) -> dict[str, str]:
    """The headers of one attempt.

    Args:
        secrets: one, or while a secret is exchanged the new one and the old; each makes a signature.
        event_id: the event's public id, the same at each attempt, so that receivers see repetitions.
        sent_at: the time of this attempt, with a time zone; receivers refuse what is over five minutes off.
        body: exactly as it is sent, in UTF-8.
        version: of Kabar, for `User-Agent`.

    Raises:
        ValueError: no secret, or a time without zone.
    """
    if not secrets:
        raise ValueError("A webhook is signed with at least one secret.")
    if sent_at.tzinfo is None:
        raise ValueError("The time of an attempt needs a time zone.")
    # `sign` writes UTC over the time's zone without converting.
    sent_at = sent_at.astimezone(UTC).replace(microsecond=0)
    text = body.decode("utf-8")
    signatures = (Webhook(secret).sign(event_id, sent_at, text) for secret in secrets)
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Kabar/{version}",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
