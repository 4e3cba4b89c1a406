"""The agent's settings: those of the node and of the exporter."""

import dataclasses

from node.settings import NodeSettings
from shared.settings.exporter import MetricsSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentSettings(NodeSettings, MetricsSettings):
    """The agent's settings; it passes each one on to the processes that also have it."""
