"""The agent's settings: those of the node and of the exporter."""

import dataclasses

from node.settings import NodeSettings
from shared.settings.exporter import MetricsSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentSettings(NodeSettings, MetricsSettings):
    """The agent's options; it passes each on to the process that has it too."""
