"""What a node is, does and has."""

from collections.abc import Iterator
from typing import Final

from exporter.metrics.catalogue.node import (
    NODE_INFO,
    NODE_INTERNAL_ERRORS,
    NODE_RESOURCES,
    NODE_START_TIME,
)
from exporter.metrics.catalogue.system import CERTIFICATE_EXPIRY
from exporter.metrics.rules.rule import Column, GroupRule, Rule, Sample, nothing
from shared.events.event import Event
from shared.events.node import (
    CertificateRead,
    InternalError,
    NodeStarted,
    NodeStateChanged,
    ResourcesSampled,
)


def _node_started(node: str, e: NodeStarted) -> tuple[Sample, ...]:
    return (
        (NODE_START_TIME, (node,), e.started_at),
        (NODE_INFO, (node, e.version, e.python, e.engine), 1),
    )


def _resources_sampled(node: str, sampled: list[ResourcesSampled]) -> Iterator[Column]:
    yield NODE_RESOURCES, (node, "cpu_cores"), [e.cpu_cores for e in sampled]
    yield NODE_RESOURCES, (node, "memory_bytes"), [e.memory_bytes for e in sampled]
    yield NODE_RESOURCES, (node, "max_layers"), [e.max_layers for e in sampled]
    yield NODE_RESOURCES, (node, "used_layers"), [e.used_layers for e in sampled]


def _internal_error(node: str, e: InternalError) -> tuple[Sample, ...]:
    return ((NODE_INTERNAL_ERRORS, (node, e.part), 1),)


def _certificate_read(node: str, e: CertificateRead) -> tuple[Sample, ...]:
    return ((CERTIFICATE_EXPIRY, (node, e.use), e.expires_at),)


RULES: Final[dict[type[Event], Rule]] = {
    NodeStarted: _node_started,
    NodeStateChanged: nothing,  # kept for `node_status`, computed at a scrape
    InternalError: _internal_error,
    CertificateRead: _certificate_read,
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    ResourcesSampled: _resources_sampled,
}
