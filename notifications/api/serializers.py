"""What the webhooks' API takes and gives."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from jobs.api.serializers import ASKABLE_EVENTS, FlagField, StrictSerializer, TextField
from jobs.kinds import all_kinds
from jobs.models import EventType
from notifications import destinations
from notifications.models import DeliveryStatus, Webhook
from notifications.webhooks.failures import WebhookFailure

EVENT_TYPES = ["job.*", *ASKABLE_EVENTS, EventType.BATCH_COMPLETED.value]


class WebhookSerializer(StrictSerializer):
    """A registered URL."""

    id = serializers.UUIDField(read_only=True)
    url = TextField(max_length=2048)
    eventTypes = serializers.ListField(
        source="event_types", child=serializers.ChoiceField(EVENT_TYPES), min_length=1, max_length=20
    )
    kinds = serializers.ListField(child=TextField(max_length=100), default=list, max_length=100)
    active = FlagField(source="is_active", default=True)
    disabledReason = serializers.CharField(source="disabled_reason", read_only=True)
    createdAt = serializers.DateTimeField(source="created_at", read_only=True)

    def validate_url(self, value: str) -> str:
        try:
            destinations.check(value)
        except WebhookFailure as refused:
            raise serializers.ValidationError(refused.message, code=refused.code) from refused
        return value

    def validate_kinds(self, value: list[str]) -> list[str]:
        known = {kind.name for kind in all_kinds()}
        if unknown := [each for each in value if each not in known]:
            raise serializers.ValidationError(f"There is no kind {', '.join(unknown)}.", code="unknown_kind")
        return value


class NewWebhookSerializer(WebhookSerializer):
    """A registered URL, with its secret: shown once at its creation."""

    secret = serializers.CharField(read_only=True)


class SecretSerializer(serializers.Serializer[Any]):
    """What signs webhooks."""

    secret = serializers.CharField()


class AttemptSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    at = serializers.DateTimeField()
    duration = serializers.FloatField(source="duration_seconds", help_text="Seconds.")
    statusCode = serializers.IntegerField(source="status_code", allow_null=True)
    answer = serializers.CharField(source="answer_start", help_text="The first 4 KiB.")
    errorCode = serializers.CharField(source="error_code")
    error = serializers.CharField()


class DeliverySerializer(serializers.Serializer[Any]):
    """One event to be told to one URL."""

    id = serializers.UUIDField()
    webhook = serializers.UUIDField(source="webhook_id", allow_null=True)
    url = serializers.CharField()
    jobId = serializers.UUIDField(source="job_id", allow_null=True, help_text="Null where the event is a batch's.")
    batchId = serializers.UUIDField(source="event.batch_id", allow_null=True)
    sequence = serializers.IntegerField(source="event.sequence")
    type = serializers.CharField(source="event.type")
    status = serializers.ChoiceField(DeliveryStatus.choices)
    nextAttemptAt = serializers.DateTimeField(source="next_attempt_at", allow_null=True)
    createdAt = serializers.DateTimeField(source="created_at")
    finishedAt = serializers.DateTimeField(source="finished_at", allow_null=True)
    attempts = AttemptSerializer(source="tries", many=True)


class DeliveryListSerializer(serializers.Serializer[Any]):
    items = DeliverySerializer(many=True)
    nextCursor = serializers.CharField(allow_null=True)


def changed(webhook: Webhook, values: dict[str, Any]) -> Webhook:
    """Change a webhook; one that is turned on again starts anew."""
    for name, value in values.items():
        setattr(webhook, name, value)
    if "is_active" in values:
        webhook.turn(on=values["is_active"])
    if "url" in values:
        webhook.endpoint = destinations.endpoint_for(webhook.owner_id, webhook.url)
    webhook.save()
    return webhook
