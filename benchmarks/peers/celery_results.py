"""Celery whose results django-celery-results keeps in the same database that Kabar uses."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from celery import Celery

BROKER = os.environ["REDIS_URL"].removesuffix("/0") + "/2"

app = Celery("results", broker=BROKER, backend="django-db", set_as_current=False)
app.conf.update(broker_connection_retry_on_startup=True)
# Without it Celery opens a database connection for each task, which costs this peer two thirds of its pace.
app.conf.CELERY_DB_REUSE_MAX = 10**9


@app.task(name="bench.noop")
def noop() -> None:
    """Do nothing; that it succeeded is a row."""
