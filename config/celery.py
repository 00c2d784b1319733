"""The Celery app. Workers: `celery -A config worker -Q default`."""

import os
from typing import Any

from celery import Celery, bootsteps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("kabar")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["notifications.webhooks"])


class DeadChildren(bootsteps.StartStopStep):
    """Has a prefork worker look often whether a child is dead.

    Celery is told of a death by a pipe that closes just before the child can be waited for; looking at once, it may
    find it alive still, and looks again every 5 s only.
    """

    requires = ("celery.worker.components:Pool",)
    INTERVAL_SECONDS = 0.5
    _timer: Any = None

    def include_if(self, worker: Any) -> bool:
        """Tell whether the worker's pool has children."""
        return bool(worker.pool_cls.__module__ == "celery.concurrency.prefork")

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Begin looking; called again when the broker was away."""
        if self._timer:
            self._timer.cancel()
        self._timer = hub.call_repeatedly(self.INTERVAL_SECONDS, worker.pool.maintain_pool)


app.steps["worker"].add(DeadChildren)
