"""A consistent cut of everything that a scrape shows: a copy, with the gauges derived from it."""

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, get_args

from exporter.metrics.catalogue.exporter import (
    BUILD_INFO,
    DURABLE,
    JOURNAL_BYTES,
    OWN_CERTIFICATE_EXPIRY,
    SERIES,
    STATE_DISK,
    WEB_CONFIG_VALID,
)
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.models import MODELS_LOADED
from exporter.metrics.catalogue.node import (
    NODE_DEPARTED,
    NODE_STATE,
    NODE_STATUS,
    NODE_UP,
    STATUS_CODES,
)
from exporter.metrics.catalogue.telemetry import EVENT_LAG, LAST_EVENT, LOST
from exporter.metrics.histogram import Histogram
from exporter.metrics.nodes import Labels, Node
from exporter.metrics.rules.rule import Sample
from exporter.metrics.state import State
from shared.events.node import NodeState
from shared.settings.base import APPLICATION

_VERSION: Final = importlib.metadata.version(APPLICATION)


@dataclass(frozen=True)
class Cut:
    """Every series at one moment between two batches."""

    numbers: dict[Family, dict[Labels, float]]
    histograms: dict[Family, dict[Labels, Histogram]]


def take_cut(state: State) -> Cut:
    """Copy every series and add the gauges that no event sets."""
    numbers, histograms = state.copy_series()
    for family, labels, value in _derived_samples(state):
        numbers[family][labels] = value
    return Cut(numbers, histograms)


def _derived_samples(state: State) -> Iterator[Sample]:
    """Return the current samples of every derived family."""
    for node in state.nodes.values():
        yield from _of_node(node)
    for family in FAMILIES:
        if family.grows:
            yield SERIES, (family.name,), state.series_count(family)
    yield DURABLE, (), int(state.storage.durable)
    yield JOURNAL_BYTES, (), state.storage.journal_bytes
    if state.storage.disk_total_bytes:
        yield STATE_DISK, ("free",), state.storage.disk_free_bytes
        yield STATE_DISK, ("total",), state.storage.disk_total_bytes
    if state.web.config_valid is not None:
        yield WEB_CONFIG_VALID, (), int(state.web.config_valid)
    if state.web.certificate_expires_at is not None:
        yield OWN_CERTIFICATE_EXPIRY, (), state.web.certificate_expires_at
    yield BUILD_INFO, (_VERSION, platform.python_version()), 1


def _of_node(node: Node) -> Iterator[Sample]:
    name = (node.node_id,)
    yield NODE_UP, name, int(node.up)
    yield NODE_DEPARTED, name, int(node.departed and not node.up)
    yield NODE_STATUS, name, STATUS_CODES[node.state]
    for state in get_args(NodeState):
        yield NODE_STATE, (node.node_id, state), int(node.state == state)
    yield LOST, name, node.lost
    if not node.sessions:
        return  # never heard from: there is no time of its last event
    yield LAST_EVENT, name, node.heard_time
    yield EVENT_LAG, name, node.lag_seconds
    if node.up:
        yield MODELS_LOADED, name, len(node.models)
