"""What came of one POST of a webhook, fit to be stored and shown."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_BODY_BYTES = 4096
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One exchange with a receiver: a status code, or an error that tells why there is none."""

    status_code: int | None
    duration_seconds: float
    body_start: str = ""
    """The first 4 KiB of the body as text; whatever a database or a page can't show is U+FFFD."""
    error_code: str | None = None
    """None with a status code; else a stable word, such as `address_refused` or `timeout`."""
    error: str | None = None
    """The same as a sentence for the webhook's owner."""
    retry_after_seconds: float | None = None
    """What the receiver asked for in `Retry-After`, at most 24 h."""


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Read `Retry-After` in both of its forms, seconds and date (RFC 9110 §10.2.3).

    Args:
        value: the header's value, None if there is none.
        now: with a time zone.

    Returns:
        Seconds from now, 0 to 24 h; None if there is no value, or none that can be read.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        # Python refuses to read more than 4,300 digits; 10 are 300 years.
        return MAX_RETRY_AFTER_SECONDS if len(value) > 10 else min(float(value), MAX_RETRY_AFTER_SECONDS)
    if len(value) > 64:  # the longest of the three forms of a date has 33
        return None
    try:
        at = parsedate_to_datetime(value)
        # The asctime form names no zone; all three forms are UTC (RFC 9110 §5.6.7).
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        seconds = (at - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def body_text(body: bytes, content_encoding: str | None) -> str:
    """The body's start as text that any database and page can hold.

    Args:
        body: its first bytes; a character that was cut at their end is left out.
        content_encoding: of the answer. A compressed body isn't inflated: its text would cost the receiver
            nothing and us a lot.
    """
    encoding = (content_encoding or "identity").strip().lower()
    if encoding not in ("", "identity"):
        name = encoding if re.fullmatch(r"[a-z0-9-]{1,20}", encoding) else "compressed"
        return f"[{name}, not shown]" if body else ""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(body[:MAX_BODY_BYTES])
    return re.sub(r"[^\n\r\t\x20-\x7e\xa0-\U0010ffff]", "\ufffd", text)
