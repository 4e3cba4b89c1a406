"""The exporter's settings: the only list of its options."""

import dataclasses

import click

from shared.settings import MetricsSettings, Number, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExporterSettings(MetricsSettings):
    """What the exporter is told."""

    series_budget: int = setting(
        10_000, click.IntRange(min=1), "Series that one metric may have; the rest become 'other'."
    )
    node_timeout_seconds: float = setting(
        2.5, Number(min=1.5), "Seconds of silence after which a node counts as gone."
    )
