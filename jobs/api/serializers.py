"""What the API takes and gives, for checking submissions and for the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from jobs.api.parsers import UNSTORABLE
from jobs.failures import UnknownKind
from jobs.kinds import get_kind
from jobs.models import FINAL_EVENTS, EventType, Status

DAY = 24 * 3600
MOST_IN_BATCH = 1000
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
MOST_METADATA_BYTES = 16 * 1024
ASKABLE_EVENTS = [each.value for each in EventType if each not in (EventType.PROGRESS, EventType.BATCH_COMPLETED)]


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses names that it doesn't know: a misspelt option must not be ignored."""

    def to_internal_value(self, data: Any) -> Any:
        names = data if isinstance(data, dict) else ()
        unknown = [name for name in names if name not in self.fields]
        if not unknown:
            return super().to_internal_value(data)
        faults: dict[str, Any] = {
            name: [ErrorDetail("There is no such field.", code="unknown_field")] for name in unknown
        }
        try:
            super().to_internal_value(data)
        except serializers.ValidationError as more:
            faults |= dict(cast(dict[str, Any], more.detail))
        raise serializers.ValidationError(faults)


class TextField(serializers.CharField):
    """Text that is text: numbers and booleans are not made into it."""

    default_error_messages = {"unstorable": "This text holds a character that can't be kept: NUL, or half of a pair."}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.validators[-2:]  # DRF's own look at each character in Python

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if UNSTORABLE.search(data):
            self.fail("unstorable")
        return super().to_internal_value(data)


class ObjectField(serializers.DictField):
    """A JSON object whose members are the caller's own: each is taken as it is, without a look at it."""

    def run_child_validation(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return dict(data)


class WholeNumberField(serializers.IntegerField):
    """A number that is a number: text is not made into it. `2.0` is as whole as `2`, as JSON Schema has it."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, float) and data.is_integer():
            data = int(data)
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class FlagField(serializers.BooleanField):
    """A boolean that is one: neither text nor a number is made into it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class TimeField(serializers.DateTimeField):
    """A time as RFC 3339 has it, with its zone."""

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str) or not RFC3339.fullmatch(value):
            self.fail("invalid", format="2026-11-24T12:00:00Z")
        return super().to_internal_value(value)


class SubmissionSerializer(StrictSerializer):
    """A request for one job."""

    kind = TextField(max_length=100)
    params = ObjectField(default=dict, help_text="As the kind's `paramsSchema` says.")
    callbackUrl = TextField(source="callback_url", default="", allow_blank=True, max_length=2048)
    callbackEvents = serializers.ListField(
        source="callback_events",
        child=serializers.ChoiceField(ASKABLE_EVENTS),
        default=lambda: [each.value for each in FINAL_EVENTS],
        max_length=20,
    )
    runAt = TimeField(source="run_at", default=None, allow_null=True)
    priority = WholeNumberField(default=0, min_value=-100, max_value=100)
    maxAttempts = WholeNumberField(source="max_attempts", default=None, allow_null=True, min_value=1, max_value=100)
    timeout = WholeNumberField(
        source="timeout_seconds",
        default=None,
        allow_null=True,
        min_value=1,
        max_value=7 * DAY,
        help_text="Seconds.",
    )
    startWithin = WholeNumberField(
        source="start_within_seconds", default=None, allow_null=True, min_value=1, max_value=365 * DAY
    )
    deadline = WholeNumberField(
        source="deadline_seconds", default=None, allow_null=True, min_value=1, max_value=365 * DAY
    )
    uniqueKey = TextField(source="unique_key", default=None, allow_null=True, max_length=255)
    onConflict = serializers.ChoiceField(["return", "reject", "replace"], source="on_conflict", default="return")
    team = TextField(default=None, allow_null=True, max_length=150)
    tags = serializers.ListField(child=TextField(max_length=100), default=list, max_length=50)
    metadata = ObjectField(default=dict)

    def validate_metadata(self, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > MOST_METADATA_BYTES:
            raise serializers.ValidationError("This is larger than 16 KiB.", code="too_large")
        return value

    def validate_kind(self, value: str) -> str:
        try:
            return get_kind(value).name
        except UnknownKind as error:
            raise serializers.ValidationError(str(error), code="unknown_kind") from error


class RerunSerializer(SubmissionSerializer):
    """Changes to what a job was submitted with; what is left out stays, `params` are replaced as a whole."""

    kind = TextField(max_length=100, required=False)


@extend_schema_field(
    {
        "type": "array",
        "items": {"$ref": "#/components/schemas/SubmissionRequest"},
        "minItems": 1,
        "maxItems": MOST_IN_BATCH,
    }
)
class SubmissionsField(serializers.ListField):
    """The jobs of a batch, each of which is checked as a submission of its own."""


class BatchRequestSerializer(StrictSerializer):
    """A request for many jobs, all or none."""

    jobs = SubmissionsField(
        allow_empty=False, max_length=MOST_IN_BATCH, help_text=f"1 to {MOST_IN_BATCH:,} submissions."
    )
    callbackUrl = TextField(
        source="callback_url", default="", allow_blank=True, max_length=2048, help_text="Hears `batch.completed`."
    )


# --- What is given: for the OpenAPI document; `jobs.representation` makes the answers ---------------------------------


class ProgressSerializer(serializers.Serializer[Any]):
    percent = serializers.FloatField(allow_null=True)
    message = serializers.CharField(allow_null=True)
    current = serializers.FloatField(allow_null=True)
    total = serializers.FloatField(allow_null=True)


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    attempt = serializers.IntegerField()


class ArtifactSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    contentType = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    sha256 = serializers.CharField()
    url = serializers.URLField(help_text="Signed; needs no other credential until it expires.")


class JobSerializer(serializers.Serializer[Any]):
    """A job, as every door shows it."""

    jobId = serializers.UUIDField()
    kind = serializers.CharField()
    status = serializers.ChoiceField(Status.choices)
    done = serializers.BooleanField()
    progress = ProgressSerializer(allow_null=True)
    result = serializers.JSONField(help_text="Any JSON; null until the job is `COMPLETED`.")
    resultUrl = serializers.URLField(allow_null=True)
    artifacts = ArtifactSerializer(many=True)
    error = ErrorSerializer(allow_null=True)
    attempt = serializers.IntegerField()
    maxAttempts = serializers.IntegerField()
    sequence = serializers.IntegerField()
    priority = serializers.IntegerField()
    tags = serializers.ListField(child=serializers.CharField())
    metadata = serializers.DictField()
    batchId = serializers.UUIDField(allow_null=True)
    uniqueKey = serializers.CharField(allow_null=True)
    retriedFrom = serializers.UUIDField(allow_null=True)
    queuePosition = serializers.IntegerField(
        allow_null=True,
        min_value=1,
        help_text="Place in line while `PENDING`, up to 1,000; an estimate, in the single Job and the receipt only.",
    )
    estimatedFinishAt = serializers.DateTimeField(allow_null=True, help_text="An estimate, while `RUNNING`.")
    statusUrl = serializers.URLField()
    eventsUrl = serializers.URLField()
    pageUrl = serializers.URLField()
    version = serializers.IntegerField()
    createdAt = serializers.DateTimeField()
    runAt = serializers.DateTimeField(allow_null=True)
    startedAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    cancelRequestedAt = serializers.DateTimeField(allow_null=True)
    expiresAt = serializers.DateTimeField(allow_null=True)


class SingleJobSerializer(JobSerializer):
    """A job read alone, with its params."""

    params = serializers.DictField()


class ReceiptSerializer(serializers.Serializer[Any]):
    """The answer to a submission."""

    jobId = serializers.UUIDField()
    status = serializers.ChoiceField(["ACCEPTED"])
    statusUrl = serializers.URLField()
    eventsUrl = serializers.URLField()
    createdAt = serializers.DateTimeField()
    job = SingleJobSerializer()


class BatchReceiptSerializer(serializers.Serializer[Any]):
    """The answer to a batch."""

    batchId = serializers.UUIDField()
    batchUrl = serializers.URLField()
    jobs = ReceiptSerializer(many=True, help_text="In the order of the submissions.")


class BatchSerializer(serializers.Serializer[Any]):
    """How the jobs of a batch stand; those that were removed are counted no more."""

    batchId = serializers.UUIDField()
    total = serializers.IntegerField(help_text="How many jobs it has had.")
    pending = serializers.IntegerField()
    running = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    done = serializers.BooleanField(help_text="Whether all have been final at once; a retry doesn't change it.")
    createdAt = serializers.DateTimeField()
    finishedAt = serializers.DateTimeField(allow_null=True)


class JobListSerializer(serializers.Serializer[Any]):
    items = JobSerializer(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class EventSerializer(serializers.Serializer[Any]):
    """The envelope that every door carries."""

    id = serializers.UUIDField(allow_null=True)
    type = serializers.ChoiceField([each.value for each in EventType])
    timestamp = serializers.DateTimeField()
    sequence = serializers.IntegerField()
    data = JobSerializer()  # type: ignore[assignment]  # the contract's name is also an attribute of serializers


class JobEventsSerializer(serializers.Serializer[Any]):
    events = EventSerializer(many=True)
    next = serializers.IntegerField(help_text="Give it as `after` next time.")


@extend_schema_field({"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Job", "Batch")]})
class JobOrBatchField(serializers.DictField):
    """What an event is about."""


class AnyEventSerializer(EventSerializer):
    """The envelope of a job's event, or of a batch's."""

    data = JobOrBatchField(help_text="The Job; the Batch where the type is `batch.completed`.")  # type: ignore[assignment]  # as above


class AllEventsSerializer(serializers.Serializer[Any]):
    events = AnyEventSerializer(many=True)
    next = serializers.CharField(help_text="Give it as `cursor` next time.")


class KindSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    paramsSchema = serializers.DictField(help_text="JSON Schema of the params.")
    timeout = serializers.IntegerField(help_text="Seconds for one attempt.")
    maxAttempts = serializers.IntegerField()


class FaultSerializer(serializers.Serializer[Any]):
    pointer = serializers.CharField()
    detail = serializers.CharField()
    code = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """What went wrong (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    errors = FaultSerializer(many=True)  # type: ignore[assignment]  # as above
