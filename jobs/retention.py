"""Removes jobs with all that belongs to them: events, keys, files, what subscribers keep. And what nobody needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FieldFile

from jobs.files import delete, remove_if_empty
from jobs.models import FINAL, Artifact, Batch, Event, IdempotencyKey, Job, JobUpload, Status, Upload
from jobs.subscribers import subscribers

# A fence never falls, and what failed or was cancelled runs again only behind a new one: whatever this finds stays so.
LEFT_BEHIND = Q(fence__lt=F("job__fence")) | Q(job__status__in=[Status.FAILED, Status.CANCELLED])


# --- Jobs -------------------------------------------------------------------------------------------------------------


def expired(now: datetime, limit: int) -> list[UUID]:
    """Find finished jobs whose time is over, the oldest first. Index: job_expires."""
    jobs = Job.objects.filter(expires_at__lt=now, status__in=FINAL).order_by("expires_at")
    return list(jobs.values_list("pk", flat=True)[:limit])


def remove(job_ids: Sequence[UUID]) -> int:
    """Remove finished jobs; those that aren't final are left alone. Files go once the rows are gone.

    Returns:
        How many were removed.
    """
    with transaction.atomic():
        jobs = Job.objects.select_for_update().filter(pk__in=_these(job_ids), status__in=FINAL)
        ids = list(jobs.order_by("pk").values_list("pk", flat=True))
        if not ids:
            return 0
        for each in subscribers():
            each.on_purge(ids)
        these = _these(ids)
        files = [each.file for each in Artifact.objects.filter(job__in=these)]
        uploads = list(Upload.objects.filter(jobs__in=these).distinct())
        # By one statement each: Django would read all events first, and look in every table for what refers to them.
        for model in (JobUpload, Artifact, IdempotencyKey, Event):
            model._base_manager.filter(job__in=these)._raw_delete(connection.alias)
        Job.objects.filter(retried_from__in=these).update(retried_from=None)
        Job.objects.filter(pk__in=these)._raw_delete(connection.alias)
        transaction.on_commit(partial(_delete_artifacts, files))
    remove_uploads(each for each in uploads if not each.jobs.exists())
    return len(ids)


def _these(ids: Sequence[UUID]) -> RawSQL:
    """Give ids as one parameter: as hundreds, they would take Django longer than the database."""
    if connection.vendor == "sqlite":
        return RawSQL("SELECT value FROM json_each(%s)", [json.dumps([each.hex for each in ids])])
    return RawSQL("SELECT unnest(%s::uuid[])", [list(ids)])


def _delete_artifacts(files: Sequence[FieldFile]) -> None:
    """Delete the files of removed jobs, and where they lie in a folder, that of each job too."""
    delete_files(files)
    for storage, folder in {(file.storage, str(PurePosixPath(file.name or "").parent)) for file in files}:
        remove_if_empty(storage, folder)


# --- What is left over ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Looked:
    """How far a look through a table came."""

    removed: int
    last: UUID | None
    """The last row that was looked at; None at the end of the table."""


def remove_left_artifacts(before: datetime, after: UUID | None, limit: int) -> Looked:
    """Remove files of attempts that didn't complete their job: nobody is ever shown them.

    Args:
        before: younger ones are kept.
        after: where to go on; None to begin.
        limit: how many artifacts to look at.
    """
    artifacts = Artifact.objects.filter(Q(pk__gt=after) if after else Q(), created_at__lt=before)
    page = list(artifacts.annotate(is_left_behind=LEFT_BEHIND).order_by("pk")[:limit])
    left = [each for each in page if each.is_left_behind]
    if left:
        with transaction.atomic():
            Artifact.objects.filter(pk__in=_these([each.pk for each in left])).delete()
            transaction.on_commit(partial(delete_files, [each.file for each in left]))
    return Looked(removed=len(left), last=page[-1].pk if len(page) == limit else None)


def remove_empty_batches(after: UUID | None, limit: int) -> Looked:
    """Remove finished batches whose jobs are all removed, with the events of their ends. Index: job_by_batch.

    One whose end is still to be delivered is kept.

    Args:
        after: where to go on; None to begin.
        limit: how many batches to look at.
    """
    batches = Batch.objects.filter(Q(pk__gt=after) if after else Q(), finished_at__isnull=False)
    page = list(batches.order_by("pk").values_list("pk", Exists(Job.objects.filter(batch=OuterRef("pk"))))[:limit])
    listeners = subscribers()
    empty = [pk for pk, has_jobs in page if not has_jobs and not any(each.has_open_work(pk) for each in listeners)]
    if empty:
        with transaction.atomic():
            Batch.objects.filter(pk__in=_these(empty)).delete()
    return Looked(removed=len(empty), last=page[-1][0] if len(page) == limit else None)


def remove_uploads(uploads: Iterable[Upload]) -> int:
    """Remove uploads that no job names any more, rows first.

    Returns:
        How many were removed.
    """
    removed = 0
    for upload in uploads:
        with transaction.atomic():
            if Upload.objects.filter(pk=upload.pk, jobs__isnull=True).delete()[0]:
                file = upload.file
                transaction.on_commit(partial(delete_files, [file]))
                removed += 1
    return removed


def delete_files(files: Iterable[FieldFile]) -> None:
    """Delete stored files; one that is gone already is fine, one that resists is said and left."""
    for file in files:
        if file.name:
            delete(file.storage, file.name)
