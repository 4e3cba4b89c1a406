"""The exporter's settings, checked against the metrics that it exposes."""

import dataclasses
from typing import ClassVar, Final

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.objectives import Objectives, find_fault
from shared.settings.declaration import UsageError
from shared.settings.exporter import MetricsSettings

_HISTOGRAMS: Final = frozenset(family.name for family in FAMILIES if family.kind == "histogram")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExporterSettings(MetricsSettings):
    """The exporter's settings."""

    unused: ClassVar[frozenset[str]] = frozenset({"node_id"})

    @property
    def objectives(self) -> Objectives:
        """What counts as a good request."""
        return Objectives(
            first_token_seconds=self.slo_first_token_seconds,
            per_token_seconds=self.slo_per_token_seconds,
            latency_seconds=self.slo_latency_seconds,
        )

    @property
    def recorded_ratio(self) -> float:
        """The share of traces that this exporter records although no caller asked for it."""
        return self.trace_ratio if self.otlp_endpoint else 0.0

    def check(self) -> None:
        """Also check that the histograms exist and that their buckets can show the objectives.

        Raises:
            UsageError: The settings contradict each other.
        """
        super().check()
        if unknown := sorted(self.buckets.keys() - _HISTOGRAMS):
            raise UsageError(f"--buckets: {unknown[0]!r} is not a histogram; see docs/metrics.md")
        if fault := find_fault(self.objectives, self.buckets):
            raise UsageError(fault)
