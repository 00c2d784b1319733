"""Reading metrics as Prometheus does."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """What one reading gave."""

    families: dict[str, Metric]
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of_text(cls, text: str) -> Scrape:
        """Read the text format, in which no series may come twice."""
        families: dict[str, Metric] = {}
        samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.name not in families, f"{family.name} comes twice"
            families[family.name] = family
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in samples, f"{key} comes twice"
                samples[key] = sample.value
        return cls(families=families, samples=samples)

    def value(self, name: str, **labels: str) -> float:
        """Give one series' value; 0 where it has not begun."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def total(self, name: str, **labels: str) -> float:
        """Add up the series that have these labels, whatever others."""
        wanted = set(labels.items())
        return sum(value for (each, having), value in self.samples.items() if each == name and wanted <= having)
