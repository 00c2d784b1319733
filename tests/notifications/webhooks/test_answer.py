"""What is kept of an answer can be stored and shown, whatever the receiver sent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.webhooks.answer import MAX_BODY_BYTES, body_text, parse_retry_after

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
DAY = 24 * 3600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("86401", DAY),
        ("9" * 5000, DAY),
        ("Sun, 01 Jun 2025 12:02:00 GMT", 120),
        ("Sunday, 01-Jun-25 12:02:00 GMT", 120),
        ("Sun Jun  1 12:02:00 2025", 120),
        ("Sun, 01 Jun 2025 11:00:00 GMT", 0),
        ("Sun, 01 Jun 2035 12:00:00 GMT", DAY),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("5, 10", None),
        ("\u0665", None),
        ("Sun, 99 Jun 2025 12:02:00 GMT", None),
        ("Sun, 01 Jun 2025 12:02:00 +9999999", None),
        ("x" * 100_000, None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text())
def test_no_retry_after_is_an_error(value: str) -> None:
    seconds = parse_retry_after(value, NOW)

    assert seconds is None or 0 <= seconds <= DAY


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"ok\r\n\tthanks", "ok\r\n\tthanks"),
        (b"a\x00b\x1bc\x7fd", "a\ufffdb\ufffdc\ufffdd"),
        ("\u00fcber \u2603 \U0001f600".encode(), "\u00fcber \u2603 \U0001f600"),
        ("\u2603".encode()[:2], ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        ("\u0085".encode(), "\ufffd"),
        (b"", ""),
    ],
)
def test_a_body_becomes_safe_text(body: bytes, text: str) -> None:
    assert body_text(body, None) == text


@given(st.binary(max_size=2 * MAX_BODY_BYTES))
def test_any_body_can_be_stored(body: bytes) -> None:
    text = body_text(body, "identity")

    assert "\x00" not in text
    assert len(text) <= MAX_BODY_BYTES
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("gzip", "[gzip, not shown]"), ("BR", "[br, not shown]"), ("<script>", "[compressed, not shown]")],
)
def test_a_compressed_body_is_not_inflated(encoding: str, text: str) -> None:
    assert body_text(b"\x1f\x8b\x08", encoding) == text
    assert body_text(b"", encoding) == ""
