"""Removes what nobody needs any more beside jobs: old keys, expired tokens, workers that are gone, files of nobody."""

from datetime import timedelta

from jobs import retention
from jobs.credentials import remove_expired_tokens
from jobs.lifecycle import IDEMPOTENCY_HOURS
from jobs.models import IdempotencyKey, Upload, Worker
from jobs.sql import statements

INTERVAL_SECONDS = 60.0
BATCH = 500
WORKER_GONE = timedelta(days=1)
ORPHAN_UPLOAD = timedelta(hours=1)


def sweep() -> int:
    """Remove a batch of each. Indexes: those on created_at and seen_at, token_expiry."""
    now = statements().now()
    removed = IdempotencyKey.objects.filter(created_at__lt=now - timedelta(hours=IDEMPOTENCY_HOURS)).delete()[0]
    removed += remove_expired_tokens(now, BATCH)
    removed += Worker.objects.filter(seen_at__lt=now - WORKER_GONE).delete()[0]
    removed += retention.remove_uploads(
        Upload.objects.filter(jobs__isnull=True, created_at__lt=now - ORPHAN_UPLOAD)[:BATCH]
    )
    return removed
