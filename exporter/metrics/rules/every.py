"""The rule of each event."""

from typing import Final

from exporter.metrics.rules import api, engine, mesh, models, node, pipelines, requests, system
from exporter.metrics.rules.rule import Rule
from shared.events.event import Event

_TOPICS: Final = (node, system, models, engine, requests, api, mesh, pipelines)
RULES: Final[dict[type[Event], Rule]] = {
    event: rule for topic in _TOPICS for event, rule in topic.RULES.items()
}
