"""The Celery side of webhooks: the bell's task."""

from celery import shared_task
from django.db import close_old_connections

from notifications.listener import DELIVER
from notifications.webhooks import dispatch


@shared_task(name=DELIVER)
def deliver(queue: str) -> int:
    """Answer a bell: send what is due."""
    close_old_connections()
    return dispatch.deliver()
