"""The secrets that sign: one a webhook, and one a user for callbacks."""

from __future__ import annotations

from datetime import datetime

from notifications.models import CallbackSecret, Delivery, Webhook
from notifications.webhooks.failures import WebhookFailure
from notifications.webhooks.signing import SECRET_PREFIX, new_secret


class SecretUnreadable(WebhookFailure):
    """The secret was encrypted under a SECRET_KEY that is neither the present one nor among its fallbacks."""

    code = "secret_unreadable"


def callback_secret(user_id: int) -> CallbackSecret:
    """Find a user's callback secret; it is made when it is first needed."""
    return CallbackSecret.objects.get_or_create(user_id=user_id, defaults={"secret": new_secret()})[0]


def signing_secrets(delivery: Delivery, now: datetime) -> list[str]:
    """Give what signs a delivery: the secret and, while it is being exchanged, the one before.

    Raises:
        SecretUnreadable: it can't be decrypted.
    """
    holder: Webhook | CallbackSecret
    holder = delivery.webhook or callback_secret(delivery.event.owner_id)
    secrets = [holder.secret]
    if holder.previous_secret and holder.previous_secret_until and holder.previous_secret_until > now:
        secrets.append(holder.previous_secret)
    if not all(each.startswith(SECRET_PREFIX) for each in secrets):  # the field gives what it can't decrypt as it is
        raise SecretUnreadable("The secret can't be read. Put the former SECRET_KEY into SECRET_KEY_FALLBACKS.")
    return secrets
