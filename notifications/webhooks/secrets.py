"""The secrets that sign: one a webhook, and one a user for callbacks."""

from __future__ import annotations

from datetime import datetime

from notifications.models import CallbackSecret, Delivery, Webhook
from notifications.webhooks.signing import new_secret


def callback_secret(user_id: int) -> CallbackSecret:
    """Find a user's callback secret; it is made when it is first needed."""
    return CallbackSecret.objects.get_or_create(user_id=user_id, defaults={"secret": new_secret()})[0]


def signing_secrets(delivery: Delivery, now: datetime) -> list[str]:
    """Give what signs a delivery: the secret and, while it is being exchanged, the one before."""
    holder: Webhook | CallbackSecret
    holder = delivery.webhook or callback_secret(delivery.job.owner_id)
    secrets = [holder.secret]
    if holder.previous_secret and holder.previous_secret_until and holder.previous_secret_until > now:
        secrets.append(holder.previous_secret)
    return secrets
