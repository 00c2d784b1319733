"""The rows of the notifications room: who wants to hear by webhook, and what was sent."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from encrypted_fields.fields import EncryptedTextField

from jobs.models import Event, Job, new_id


class Endpoint(models.Model):
    """One host that one user has news sent to; what is isolated from the rest, and owned by one process at a time."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    host = models.CharField(max_length=300, help_text="scheme, host and port")
    owner = models.UUIDField(null=True, help_text="the process that sends to it now")
    owned_until = models.DateTimeField(null=True)
    limit = models.PositiveSmallIntegerField(default=1, help_text="most in flight at once")
    open_until = models.DateTimeField(null=True, help_text="nothing is sent before, after repeated failure")
    failing_since = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "host"], name="endpoint_user_host")]

    def __str__(self) -> str:
        return self.host


class Webhook(models.Model):
    """A URL registered once to hear of its owner's jobs."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="webhooks")
    endpoint = models.ForeignKey(Endpoint, models.PROTECT, related_name="+")
    url = models.TextField()
    event_types = models.JSONField(default=list)
    kinds = models.JSONField(default=list, blank=True, help_text="empty: all")
    is_active = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=200, default="", blank=True)
    failing_since = models.DateTimeField(null=True)
    secret = EncryptedTextField()
    previous_secret = EncryptedTextField(null=True, blank=True)
    previous_secret_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["owner"], name="webhook_active", condition=Q(is_active=True))]

    def __str__(self) -> str:
        return self.url

    def turn(self, *, on: bool, reason: str = "") -> None:
        """Have it hear of jobs, or of none; one that is turned on again starts anew. The row isn't saved.

        Args:
            on: whether it hears.
            reason: for its owner, why it does not.
        """
        self.is_active = on
        self.disabled_reason = "" if on else reason
        if on:
            self.failing_since = None


class CallbackSecret(models.Model):
    """What signs the callbacks of a user's jobs."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+")
    secret = EncryptedTextField()
    previous_secret = EncryptedTextField(null=True, blank=True)
    previous_secret_until = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"of {self.user_id}"


class DeliveryStatus(models.TextChoices):
    """Where a delivery stands."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class Delivery(models.Model):
    """One event to be told to one URL: written in the event's own transaction, sent at least once."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    endpoint = models.ForeignKey(Endpoint, models.PROTECT, related_name="deliveries")
    # No constraint: an event's transaction must not fail because a webhook is deleted beside it.
    webhook = models.ForeignKey(Webhook, models.SET_NULL, null=True, related_name="deliveries", db_constraint=False)
    is_callback = models.BooleanField(help_text="for the job's callbackUrl, and not for a webhook")
    url = models.TextField()
    event = models.ForeignKey(Event, models.CASCADE, related_name="deliveries")
    job = models.ForeignKey(
        Job, models.CASCADE, null=True, related_name="deliveries", help_text="null where the event is a batch's"
    )
    status = models.CharField(max_length=9, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes: ClassVar = [
            # Finding what is due, endpoint by endpoint.
            models.Index(
                fields=["endpoint", "next_attempt_at"], name="delivery_due", condition=Q(status=DeliveryStatus.PENDING)
            ),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "webhook"], name="delivery_event_webhook"),
            models.UniqueConstraint(fields=["event"], name="delivery_event_callback", condition=Q(is_callback=True)),
        ]

    def __str__(self) -> str:
        return f"{self.event_id} to {self.url}"


class DeliveryAttempt(models.Model):
    """What came of one POST."""

    delivery = models.ForeignKey(Delivery, models.CASCADE, related_name="tries", db_index=False)  # attempt_number
    number = models.PositiveSmallIntegerField()
    at = models.DateTimeField()
    duration_seconds = models.FloatField()
    status_code = models.PositiveSmallIntegerField(null=True)
    answer_start = models.TextField(default="", help_text="the first 4 KiB")
    error_code = models.CharField(max_length=40, default="")
    error = models.TextField(default="")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["delivery", "number"], name="attempt_number")]

    def __str__(self) -> str:
        return f"try {self.number}"
