"""What a coordinator asks of a peer's worker, and the tunnel that leads to it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from node.errors import NodeError
from node.routing.offer import Count, Name, Text
from shared.events.pipelines import WorkerLoss, WorkerRefusal

Refusal = WorkerRefusal
Loss = WorkerLoss


@dataclass(frozen=True)
class Claim:
    """What a coordinator wants of a peer."""

    node_id: Name
    """The peer: the claim is valid only there."""
    pipeline_id: Name
    """Random, one per start of the engine."""
    model_id: Name
    memory_bytes: Count
    """What the worker will hold there."""
    build: Text
    """The coordinator's own build, as in `Offer.rpc_build`; the peer's must be the same."""


@dataclass(frozen=True)
class Traffic:
    """What has passed through a tunnel in some time."""

    sent_bytes: int
    received_bytes: int
    hop_seconds: tuple[float, ...]
    """Round trips of the heartbeat."""


class Tunnel(Protocol):
    """A worker on another node, as if it listened on this machine."""

    @property
    def endpoint(self) -> str:
        """Where it listens, `127.0.0.1:PORT`, for llama-server's `--rpc`; one client at a time."""

    def take_traffic(self) -> Traffic:
        """Return what has passed since the last call."""

    async def wait_lost(self) -> Loss:
        """Wait until the worker is lost. Its clients' connections are reset at that moment."""


OpenTunnel = Callable[[str, Claim], AbstractAsyncContextManager[Tunnel]]
"""Claims the worker of the node whose API is at the URL, and keeps it while the block runs.

Raises, before the block runs:
    TunnelRefusedError: The node does not lend its worker.
    PeerLostError: The node cannot be reached or broke off (`node.routing.client`).
"""


class TunnelRefusedError(NodeError):
    """A node does not lend its worker."""

    def __init__(self, message: str, reason: Refusal) -> None:
        super().__init__(message)
        self.reason = reason
