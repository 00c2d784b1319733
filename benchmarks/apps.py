from django.apps import AppConfig


class BenchmarksConfig(AppConfig):
    """Kinds for the benchmarks; installed by `KABAR_APPS=benchmarks` and never by default."""

    name = "benchmarks"
