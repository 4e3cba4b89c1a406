"""What a node is, does and has."""

from typing import Literal

from shared.events.event import Event

NodeState = Literal["offline", "online", "busy", "draining", "unknown"]
CertificateUse = Literal["api", "mesh"]
NodePart = Literal[
    "api_keys",
    "carrier",
    "certificates",
    "engine",
    "lane",
    "listener",
    "loop_lag",
    "mesh_answers",
    "mesh_rounds",
    "mesh_seeds",
    "mesh_surveys",
    "packer",
    "pipelines",
    "reaper",
    "router",
    "sampler",
    "terminal",
    "watchdog",
    "workers",
]
"""The long-lived parts of a node, each run by the guard."""


class NodeStarted(Event, frozen=True, tag=1):
    """The node's identity. A level: sent again when an exporter asks for it."""

    started_at: float
    """Start time in Unix seconds, by the node's clock."""
    version: str
    python: str
    engine: str
    api_url: str
    """URL at which the exporter's health check reaches the node's API."""


class NodeStateChanged(Event, frozen=True, tag=2):
    """What the node is doing now. A level."""

    state: NodeState


class ResourcesSampled(Event, frozen=True, tag=3):
    """What the node contributes to the mesh. A level."""

    cpu_cores: float
    """Cores that the process may use, as limited by its CPU affinity and the cgroup's quota."""
    memory_bytes: int
    max_layers: int
    """How many layers fit in memory, of the loaded model or else of the default one."""
    used_layers: int


class InternalError(Event, frozen=True, tag=26):
    """A part of the node raised an unexpected error and continued."""

    part: NodePart


class CertificateRead(Event, frozen=True, tag=27):
    """A certificate of the node was read and is in use. A level."""

    use: CertificateUse
    expires_at: float
    """Unix time in seconds, as the certificate says."""
