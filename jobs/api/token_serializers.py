"""What the API takes and gives of tokens."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from jobs.api.serializers import StrictSerializer, TextField, WholeNumberField
from jobs.models import GRANTABLE, Token

DAY = 24 * 3600
WATCH_SECONDS = 15 * 60
LONGEST_SECONDS = 10 * 365 * DAY


class WatchTokenRequestSerializer(StrictSerializer):
    """What a watch token is to be good for."""

    jobId = serializers.UUIDField(
        source="job_id",
        allow_null=True,
        default=None,
        help_text="The one job that it sees; all that you see if left out.",
    )
    expiresIn = WholeNumberField(
        source="expires_in",
        min_value=1,
        max_value=DAY,
        default=WATCH_SECONDS,
        help_text=f"Seconds; {WATCH_SECONDS} if left out.",
    )


class WatchTokenSerializer(serializers.Serializer[Any]):
    """A watch token."""

    token = serializers.CharField()
    expiresAt = serializers.DateTimeField()
    jobId = serializers.UUIDField(allow_null=True)


class TokenRequestSerializer(StrictSerializer):
    """A token that is to be made."""

    name = TextField(max_length=100, help_text="Where it is used, for people.")
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=[(each.value, each.label) for each in GRANTABLE]),
        max_length=len(GRANTABLE),
        default=list,
        help_text="What it may be used for; left out, what the token may that it is made with.",
    )
    expiresIn = WholeNumberField(
        source="expires_in",
        min_value=1,
        max_value=LONGEST_SECONDS,
        allow_null=True,
        default=None,
        help_text="Seconds; never if left out.",
    )


class TokenSerializer(serializers.ModelSerializer[Token]):
    """A token, without its text."""

    startsWith = serializers.CharField(source="token_key", help_text="How its text begins.")
    scopes = serializers.ListField(child=serializers.CharField(), help_text="Empty: all.")
    createdAt = serializers.DateTimeField(source="created")
    expiresAt = serializers.DateTimeField(source="expiry", allow_null=True)
    lastUsedAt = serializers.DateTimeField(source="last_used_at", allow_null=True)

    class Meta:
        model = Token
        fields: tuple[str, ...] = ("id", "name", "startsWith", "scopes", "createdAt", "expiresAt", "lastUsedAt")


class NewTokenSerializer(TokenSerializer):
    """A token right after it was made."""

    token = serializers.CharField(help_text="Shown only now.")

    class Meta(TokenSerializer.Meta):
        fields = (*TokenSerializer.Meta.fields, "token")
