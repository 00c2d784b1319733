from importlib import import_module

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class JobsConfig(AppConfig):
    """The room that knows how work is promised, done and recorded."""

    name = "jobs"

    def ready(self) -> None:
        import_module("jobs.checks")
        import_module("jobs.builtin")
        autodiscover_modules("kinds")
        self._register_duties()
        gauges = import_module("jobs.metrics.gauges")
        gauges.register(gauges.of_jobs)

    def _register_duties(self) -> None:
        from jobs import sweeper
        from jobs.sweeper import (
            batches,
            expire,
            gates,
            presence,
            promote,
            purge,
            rescue,
            retention,
            ring,
            spool,
            strays,
        )

        for duty in (presence, spool, promote, rescue, expire, gates, batches, ring, retention, purge, strays):
            sweeper.register(
                sweeper.Duty(
                    name=duty.__name__.rpartition(".")[2],
                    interval_seconds=duty.INTERVAL_SECONDS,
                    sweep=duty.sweep,
                    waits_after_outage=duty is rescue,
                )
            )
