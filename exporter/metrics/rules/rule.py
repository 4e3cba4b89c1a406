"""The types of rules, and of the samples that they return."""

from collections.abc import Callable, Iterable
from typing import Any

from exporter.metrics.catalogue.family import Family
from shared.events.event import Event

Sample = tuple[Family, tuple[str, ...], float]
Rule = Callable[[str, Any], tuple[Sample, ...]]
"""From a node's name and an event."""
Column = tuple[Family, tuple[str, ...], list[float]]
"""Numbers for one series, in the order of their events: a counter adds them, a gauge takes on the
last, a running total the highest, and a histogram observes each. An empty one moves nothing."""
GroupRule = Callable[[str, list[Any]], Iterable[Column]]
"""From a node's name and events of one kind."""


def nothing(node: str, event: Event) -> tuple[Sample, ...]:
    """Move no series: the event is kept for something else."""
    del node, event
    return ()


def ones(happened: list[Any]) -> list[float]:
    """Count each event once."""
    return [1] * len(happened)
