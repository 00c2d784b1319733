"""Signatures that the published library verifies."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from notifications.webhooks.signing import new_secret, signed_headers

BODY = '{"type":"job.completed","name":"\u00fcber"}'.encode()


def headers_of(*secrets: str, sent_at: datetime | None = None) -> dict[str, str]:
    return signed_headers(
        secrets=secrets,
        event_id="0190b6f0-5f6e-7cc0-8000-000000000001",
        sent_at=sent_at or datetime.now(UTC),
        body=BODY,
        version="1.2.3",
    )


def test_the_published_library_verifies_what_we_sign() -> None:
    secret = new_secret()

    assert Webhook(secret).verify(BODY, headers_of(secret))["name"] == "\u00fcber"


def test_a_changed_body_or_another_secret_is_found_out() -> None:
    secret = new_secret()
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers_of(secret))
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers_of(secret))


def test_while_a_secret_is_exchanged_both_verify() -> None:
    new, old = new_secret(), new_secret()
    headers = headers_of(new, old)

    assert len(headers["webhook-signature"].split(" ")) == 2
    Webhook(new).verify(BODY, headers)
    Webhook(old).verify(BODY, headers)


def test_a_time_in_another_zone_is_the_same_time() -> None:
    secret = new_secret()
    now = datetime.now(timezone(timedelta(hours=9)))
    headers = headers_of(secret, sent_at=now)

    assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    Webhook(secret).verify(BODY, headers)


def test_a_secret_is_fresh_and_32_bytes_long() -> None:
    secret = new_secret()

    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert secret != new_secret()


def test_the_headers_say_who_sends_what() -> None:
    headers = headers_of(new_secret())

    assert headers["User-Agent"] == "Kabar/1.2.3"
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "0190b6f0-5f6e-7cc0-8000-000000000001"


def test_nothing_is_sent_unsigned_or_at_an_unknown_time() -> None:
    with pytest.raises(ValueError, match="at least one secret"):
        headers_of()
    with pytest.raises(ValueError, match="time zone"):
        headers_of(new_secret(), sent_at=datetime(2025, 1, 1))
