"""Removes jobs with all that belongs to them: events, keys, files, and what subscribers keep."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction

from jobs.models import FINAL, Artifact, Event, IdempotencyKey, Job, JobUpload, Upload
from jobs.subscribers import subscribers

logger = logging.getLogger(__name__)


def remove_expired(now: datetime, limit: int) -> int:
    """Remove finished jobs whose time is over. Index: job_expires.

    Returns:
        How many were removed.
    """
    expired = Job.objects.filter(expires_at__lt=now, status__in=FINAL).order_by("expires_at")
    return remove(list(expired.values_list("pk", flat=True)[:limit]))


def remove(job_ids: Sequence[UUID]) -> int:
    """Remove finished jobs; those that aren't final are left alone. Files go once the rows are gone.

    Returns:
        How many were removed.
    """
    with transaction.atomic():
        jobs = Job.objects.select_for_update().filter(pk__in=job_ids, status__in=FINAL)
        ids = list(jobs.values_list("pk", flat=True))
        if not ids:
            return 0
        for each in subscribers():
            each.on_purge(ids)
        files = [each.file for each in Artifact.objects.filter(job__in=ids)]
        uploads = list(Upload.objects.filter(jobs__in=ids).distinct())
        for model in (JobUpload, Artifact, IdempotencyKey, Event):
            model._base_manager.filter(job__in=ids).delete()
        Job.objects.filter(pk__in=ids).delete()
        transaction.on_commit(lambda: delete_files(files))
    remove_uploads(each for each in uploads if not each.jobs.exists())
    return len(ids)


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


def delete_files(files: Iterable[object]) -> None:
    """Delete stored files; one that is gone already is fine, one that resists is said and left."""
    for file in files:
        try:
            file.storage.delete(file.name)  # type: ignore[attr-defined]
        except OSError:
            logger.warning("A stored file could not be deleted", exc_info=True)
