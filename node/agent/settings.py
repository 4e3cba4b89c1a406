"""The agent's settings: those of the node and of the exporter."""

import dataclasses

from node.settings import NodeSettings
from shared.settings.exporter import MetricsSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentSettings(NodeSettings, MetricsSettings):
    """What the agent is told; it passes each setting on to the process that it concerns."""
