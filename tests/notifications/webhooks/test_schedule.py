"""When a webhook is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.webhooks.answer import Answer
from notifications.webhooks.schedule import MAX_ATTEMPTS, RETRY_GAPS, Verdict, next_attempt, verdict

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
MIDDLE = 0.5
"""The share at which there is no jitter."""


def answered(status_code: int | None) -> Answer:
    return Answer(status_code=status_code, duration_seconds=0.1)


def test_ten_attempts_follow_the_contract() -> None:
    hour = 3600
    gaps = [5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    times = [next_attempt(number, NOW, random_share=lambda: MIDDLE) for number in range(1, 11)]

    assert MAX_ATTEMPTS == 10
    assert times == [*(NOW + timedelta(seconds=gap) for gap in gaps), None]


@given(
    number=st.integers(1, 9),
    share=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(-10, 1e9),
)
def test_jitter_stays_within_a_tenth_and_after_now(number: int, share: float, asked: float | None) -> None:
    at = next_attempt(number, NOW, asked, random_share=lambda: share)

    assert at is not None
    gap, asked_seconds = RETRY_GAPS[number - 1].total_seconds(), min(max(asked or 0, 0), 24 * 3600)
    wait = (at - NOW).total_seconds()
    assert wait > 0
    assert wait >= asked_seconds - 1e-6
    assert 0.9 * gap - 1e-6 <= wait <= 1.1 * max(gap, asked_seconds) + 1e-6


def test_jitter_spreads_what_failed_together() -> None:
    assert len({next_attempt(1, NOW) for _ in range(50)}) > 25


def test_retry_after_makes_the_gap_longer_and_never_shorter() -> None:
    assert next_attempt(1, NOW, 3600.0, random_share=lambda: 0.0) == NOW + timedelta(hours=1)
    assert next_attempt(3, NOW, 1.0, random_share=lambda: MIDDLE) == NOW + timedelta(minutes=30)


def test_retry_after_counts_up_to_a_day() -> None:
    assert next_attempt(1, NOW, 1e9, random_share=lambda: 0.0) == NOW + timedelta(hours=24)


def test_retry_after_adds_no_attempt() -> None:
    assert next_attempt(10, NOW, 60.0) is None
    assert next_attempt(11, NOW) is None


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        next_attempt(0, NOW)


@pytest.mark.parametrize(
    ("status_code", "expected"),
    [
        (200, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (None, Verdict.RETRY),
        (101, Verdict.RETRY),
        (199, Verdict.RETRY),
        (301, Verdict.RETRY),
        (400, Verdict.RETRY),
        (404, Verdict.RETRY),
        (409, Verdict.RETRY),
        (410, Verdict.GONE),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (503, Verdict.RETRY),
        (999, Verdict.RETRY),
    ],
)
def test_a_status_means_delivered_again_or_gone(status_code: int | None, expected: Verdict) -> None:
    assert verdict(answered(status_code)) is expected
