"""The admin of this room: what operators see of jobs, workers, uploads and tokens. Nothing here types a status."""

from jobs.admin import job, token, upload, worker

__all__ = ["job", "token", "upload", "worker"]
