"""The body of a webhook: the envelope of its event, with the result while it is small."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings

from jobs import log
from jobs.models import Event
from jobs.representation import as_json, event_id


def body_of(event: Event) -> bytes:
    """Write an event's envelope; a result over the limit stays where `statusUrl` has it.

    Args:
        event: read with its job and the job's files, or with its batch.

    Raises:
        LookupError: its job was removed meanwhile.
    """
    envelope = log.envelope(event)
    if envelope is None:
        raise LookupError(f"the job of event {event.pk} is gone")
    result = envelope["data"].get("result")
    if result is not None and len(as_json(result).encode()) > settings.WEBHOOK_RESULT_LIMIT_BYTES:
        envelope["data"] |= {"result": None, "resultOmitted": True}
    return as_json(envelope).encode()


def id_of(event: Event) -> UUID:
    """Give the event's public id: the `webhook-id`, the same at each attempt."""
    subject_id = event.job_id or event.batch_id
    if subject_id is None:
        raise LookupError(f"event {event.pk} is neither a job's nor a batch's")
    return event_id(subject_id, event.sequence, event.at)
