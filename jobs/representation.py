"""How a job and its events look on every door: one function each, so that all doors agree to the letter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from jobs import artifact_urls
from jobs.models import Artifact, Batch, Event, EventType, Job, Status

# The Job's names and the columns that can change from event to event; an event's row keeps these as they stood.
CHANGING = {
    "status": "status",
    "progress": "progress",
    "error": "error",
    "attempt": "attempt",
    "version": "version",
    "runAt": "run_at",
    "startedAt": "started_at",
    "finishedAt": "finished_at",
    "expiresAt": "expires_at",
    "cancelRequestedAt": "cancel_requested_at",
}


def as_time(moment: datetime | None) -> str | None:
    """Write a time in RFC 3339, in UTC, with microseconds and a `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None


def as_json(value: Any) -> str:
    """Write JSON the way every door sends it: compact, UTF-8, no NaN."""
    return json.dumps(value, cls=DjangoJSONEncoder, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def changing_state(job: Job) -> dict[str, Any]:
    """Take down what of a job can change, for its event's row."""
    state: dict[str, Any] = {}
    for name, column in CHANGING.items():
        value = getattr(job, column)
        state[name] = as_time(value) if isinstance(value, datetime) else value
    return state


def job_as_dict(job: Job, artifacts: Iterable[Artifact] = ()) -> dict[str, Any]:
    """Show a job as it stands, without its params.

    Args:
        job: the row.
        artifacts: files of the attempt that finished it.
    """
    return _shape(job, sequence=job.sequence, state=changing_state(job), artifacts=artifacts)


def single_job_as_dict(job: Job, artifacts: Iterable[Artifact] = ()) -> dict[str, Any]:
    """Show a job as the receipt and the single Job do: with its params."""
    return job_as_dict(job, artifacts) | {"params": job.params}


def event_as_dict(event: Event, job: Job, artifacts: Iterable[Artifact] = ()) -> dict[str, Any]:
    """Show an event: the envelope that every door carries, with the Job as it stood then.

    Args:
        event: a row of the log.
        job: whose; gives what never changes, and the result where this event is the completion.
        artifacts: files of the attempt that finished it.
    """
    state = {name: event.data.get(name) for name in CHANGING}
    data = _shape(job, sequence=event.sequence, state=state, artifacts=artifacts)
    data |= {name: event.data[name] for name in ("log", "by") if name in event.data}
    return _envelope(event, job.id, data)


def batch_as_dict(batch: Batch, counts: Mapping[str, int], finished_at: datetime | None) -> dict[str, Any]:
    """Show a batch.

    Args:
        batch: the row; gives what never changes.
        counts: how many of its jobs stand where, by their status in small letters.
        finished_at: when all of them were final.
    """
    return {
        "batchId": str(batch.id),
        "total": batch.total,
        **{name: counts[name] for name in ("pending", "running", "completed", "failed", "cancelled")},
        "done": finished_at is not None,
        "createdAt": as_time(batch.created_at),
        "finishedAt": as_time(finished_at),
    }


def batch_event_as_dict(event: Event, batch: Batch) -> dict[str, Any]:
    """Show the event of a batch's end: the same envelope, with the Batch as it stood then."""
    return _envelope(event, batch.id, batch_as_dict(batch, event.data, event.at))


def _envelope(event: Event, subject_id: UUID, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(event_id(subject_id, event.sequence, event.at)),
        "type": event.type,
        "timestamp": as_time(event.at),
        "sequence": event.sequence,
        "data": data,
    }


def progress_as_dict(job: Job, progress: dict[str, Any], version: int) -> dict[str, Any]:
    """Show progress as the push doors carry it: state, not an event of the log, so it has no id."""
    state = changing_state(job) | {"progress": progress, "version": version}
    return {
        "id": None,
        "type": EventType.PROGRESS.value,
        "timestamp": as_time(timezone.now()),
        "sequence": job.sequence,
        "data": _shape(job, sequence=job.sequence, state=state, artifacts=()),
    }


def event_id(subject: UUID, sequence: int, at: datetime) -> UUID:
    """Derive an event's public id: a UUIDv7 (RFC 9562 §5.7) of its time, whose random bits are a hash of its place."""
    digest = int.from_bytes(hashlib.sha256(f"{subject}/{sequence}".encode()).digest()[:10])
    milliseconds = int(at.timestamp() * 1000)
    value = (
        (milliseconds << 80) | (0x7 << 76) | ((digest >> 62 & 0xFFF) << 64) | (0b10 << 62) | (digest & ((1 << 62) - 1))
    )
    return UUID(int=value)


def status_url(job_id: UUID) -> str:
    return f"{settings.PUBLIC_URL}/api/jobs/status/{job_id}"


def batch_url(batch_id: UUID) -> str:
    return f"{settings.PUBLIC_URL}/api/batches/{batch_id}"


def _shape(job: Job, *, sequence: int, state: dict[str, Any], artifacts: Iterable[Artifact]) -> dict[str, Any]:
    status = Status(state["status"])
    is_completed = status == Status.COMPLETED
    files = list(artifacts) if is_completed else []
    main = next((each for each in files if each.is_main), files[0] if files else None)
    return {
        "jobId": str(job.id),
        "kind": job.kind,
        "status": status.value,
        "done": status.is_final,
        "progress": state["progress"],
        "result": job.result if is_completed else None,
        "resultUrl": artifact_urls.signed_url(main) if main else None,
        "artifacts": [_artifact(each) for each in files],
        "error": state["error"],
        "attempt": state["attempt"],
        "maxAttempts": job.max_attempts,
        "sequence": sequence,
        "priority": job.priority,
        "tags": job.tags,
        "metadata": job.metadata,
        "batchId": job.batch_id and str(job.batch_id),
        "uniqueKey": job.unique_key,
        "retriedFrom": job.retried_from_id and str(job.retried_from_id),
        "queuePosition": None,
        "estimatedFinishAt": _finish_at_pace(status, state),
        "statusUrl": status_url(job.id),
        "eventsUrl": f"{settings.PUBLIC_URL}/api/jobs/{job.id}/events",
        "pageUrl": f"{settings.PUBLIC_URL}/jobs/{job.id}",
        "version": state["version"],
        "createdAt": as_time(job.created_at),
        "runAt": state["runAt"],
        "startedAt": state["startedAt"],
        "finishedAt": state["finishedAt"],
        "cancelRequestedAt": state["cancelRequestedAt"],
        "expiresAt": state["expiresAt"],
    }


def finish_at_pace(status: str, started_at: datetime | None, progress: dict[str, Any] | None) -> datetime | None:
    """Guess the end of a running job from its pace so far; None where nothing is known of it."""
    percent: float | None = (progress or {}).get("percent")
    if status != Status.RUNNING or not started_at or not percent or percent < 1:
        return None
    return started_at + (timezone.now() - started_at) * (100 / percent)


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "contentType": artifact.content_type,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "url": artifact_urls.signed_url(artifact),
    }


def _finish_at_pace(status: Status, state: dict[str, Any]) -> str | None:
    started_at = state["startedAt"] and datetime.fromisoformat(state["startedAt"])
    return as_time(finish_at_pace(status, started_at, state["progress"]))
