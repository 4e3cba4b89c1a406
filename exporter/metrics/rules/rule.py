"""The types of rules, and of the samples that they return."""

from collections.abc import Callable
from typing import Any

from exporter.metrics.catalogue.family import Family
from shared.events.event import Event

Sample = tuple[Family, tuple[str, ...], float]
Observations = tuple[Family, tuple[str, ...], list[float]]
Rule = Callable[[str, Any], tuple[Sample | Observations, ...]]


def nothing(node: str, event: Event) -> tuple[Sample, ...]:
    """Move no series: the event is kept for something else."""
    del node, event
    return ()
