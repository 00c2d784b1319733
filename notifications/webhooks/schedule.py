"""When a webhook is tried again, and what an answer means."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

from notifications.webhooks.answer import MAX_RETRY_AFTER_SECONDS, Answer

RETRY_GAPS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""From one attempt to the next."""
MAX_ATTEMPTS = len(RETRY_GAPS) + 1
JITTER = 0.1
"""A gap is this share shorter or longer, so that deliveries that failed together don't come back together."""

_random = random.SystemRandom().random


class Verdict(StrEnum):
    """What an answer means for its delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GONE = "gone"
    """The receiver wants no more: nothing is tried again, and its webhook is disabled."""


def verdict(answer: Answer) -> Verdict:
    """Judge an answer: 2xx is success, 410 the end, all else worth another attempt (3xx isn't followed)."""
    match answer.status_code:
        case int(code) if 200 <= code <= 299:
            return Verdict.DELIVERED
        case 410:
            return Verdict.GONE
        case _:
            return Verdict.RETRY


def next_attempt(
    attempt_number: int,
    now: datetime,
    retry_after_seconds: float | None = None,
    *,
    random_share: Callable[[], float] = _random,
) -> datetime | None:
    """When to try again after an attempt that failed.

    Args:
        attempt_number: of the attempt that was just made, from 1.
        now: when it ended.
        retry_after_seconds: what the receiver asked for, up to 24 h: a longer gap, never a shorter one.
            Jitter only adds to it.
        random_share: evenly from 0 to below 1.

    Returns:
        The time, always after `now`; None after the tenth attempt.
    """
    if attempt_number < 1:
        raise ValueError("Attempts are counted from 1.")
    if attempt_number >= MAX_ATTEMPTS:
        return None
    share = random_share()
    gap = RETRY_GAPS[attempt_number - 1] * (1 - JITTER + 2 * JITTER * share)
    asked_seconds = min(max(retry_after_seconds or 0.0, 0.0), MAX_RETRY_AFTER_SECONDS)
    return now + max(gap, timedelta(seconds=asked_seconds) * (1 + JITTER * share))
