from django.apps import AppConfig

from jobs import subscribers, sweeper


class NotificationsConfig(AppConfig):
    """The room that knows how news of jobs reaches people."""

    name = "notifications"

    def ready(self) -> None:
        from jobs.metrics import gauges
        from notifications import metrics
        from notifications.listener import WebhookListener
        from notifications.webhooks import sweep

        subscribers.register(WebhookListener())
        gauges.register(metrics.of_webhooks)
        sweeper.register(
            sweeper.Duty(name="ring for webhooks", interval_seconds=sweep.INTERVAL_SECONDS, sweep=sweep.sweep)
        )
