"""How values look in the admin; everything is escaped, and long texts are cut."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

LONGEST_TEXT = 50_000
LONGEST_CELL = 500


def show_text(text: str) -> SafeString | str:
    """Show a text with its lines as they are."""
    if not text:
        return "-"
    cut = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\n…"
    return format_html("<pre>{}</pre>", cut)


def show_json(value: Any) -> SafeString | str:
    """Show JSON indented."""
    return "-" if value is None else show_text(json.dumps(value, indent=2, ensure_ascii=False))


def show_error(error: dict[str, Any] | None) -> str:
    """Show a job's error on one line."""
    return "" if not error else Truncator(f"{error.get('code')}: {error.get('message')}").chars(LONGEST_CELL)


def show_span(span: timedelta | None) -> str:
    """Show a duration: tenths of a second below a minute, h:mm:ss above."""
    if span is None:
        return ""
    seconds = max(0.0, span.total_seconds())
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))


def show_time(moment: datetime) -> str:
    """Show a time in UTC to the millisecond; the admin's own format ends at the minute."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'milliseconds')} UTC"


def job_link(job_id: UUID | None) -> SafeString | str:
    """Link to a job's page in the admin."""
    if job_id is None:
        return "-"
    return format_html('<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[job_id]), job_id)
