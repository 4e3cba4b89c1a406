"""The rule of each kind of event: frequent kinds have one for many events at once."""

from typing import Final

from exporter.metrics.rules import api, engine, mesh, models, node, pipelines, requests, system
from exporter.metrics.rules.rule import GroupRule, Rule
from shared.events.event import Event

RULES: Final[dict[type[Event], Rule]] = {
    event: rule
    for topic in (node, models, engine, requests, api, mesh, pipelines)
    for event, rule in topic.RULES.items()
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    event: rule
    for topic in (node, system, engine, requests, api, mesh)
    for event, rule in topic.GROUP_RULES.items()
}
