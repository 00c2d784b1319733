"""The body of a webhook: the envelope of its event, with the result while it is small."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings

from jobs.log import finishing_artifacts
from jobs.models import Event, Job
from jobs.representation import as_json, event_as_dict, event_id


def body_of(event: Event, job: Job) -> bytes:
    """Write an event's envelope; a result over the limit stays where `statusUrl` has it."""
    envelope = event_as_dict(event, job, finishing_artifacts(job))
    result = envelope["data"]["result"]
    if result is not None and len(as_json(result).encode()) > settings.WEBHOOK_RESULT_LIMIT_BYTES:
        envelope["data"] |= {"result": None, "resultOmitted": True}
    return as_json(envelope).encode()


def id_of(event: Event, job: Job) -> UUID:
    """Give the event's public id: the `webhook-id`, the same at each attempt."""
    return event_id(job.id, event.sequence, event.at)
