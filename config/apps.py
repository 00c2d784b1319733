from importlib import import_module

from django.apps import AppConfig


class ConfigConfig(AppConfig):
    """The project itself: makes the Celery app current in every process that loads Django."""

    name = "config"

    def ready(self) -> None:
        import_module("config.celery")
