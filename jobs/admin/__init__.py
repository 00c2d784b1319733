"""The admin of this room: what operators see of jobs, queues, workers, uploads, tokens. Nothing here types a status."""

from jobs.admin import job, queue, token, upload, worker

__all__ = ["job", "queue", "token", "upload", "worker"]
