"""One split model that runs: a tunnel to each worker, and the engine that uses them."""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from node.engine.link import Link
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import open_llama_server
from node.engine.place import Place
from node.errors import UnavailableError
from node.pipeline.splits import split_flags
from node.pipeline.tunnel import Claim, OpenTunnel, Tunnel, TunnelRefusedError
from node.routing.client import PeerLostError
from shared.events.pipelines import RebuildReason

_NOTICE_SECONDS: Final = 0.5
"""How much later than its engine a tunnel may notice that its worker is lost."""

_log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The tunnels of one split model."""

    model_id: str
    place: Place
    tunnels: dict[str, Tunnel] = field(default_factory=dict)
    """By node, as far as they are open."""
    sent_bytes: int = 0
    """Through all tunnels; while the model loads, mostly weights."""
    lost: RebuildReason | None = None
    """What ended it first; None if it was not a worker."""
    faults: dict[str, str] = field(default_factory=dict)
    """By node, why its worker is not used again soon."""
    noticed: trio.Event = field(default_factory=trio.Event)
    """Set when a worker is at fault."""

    def note_fault(self, node_id: str, reason: RebuildReason, why: str) -> None:
        """Record that a worker was lost or refused."""
        self.lost = self.lost or reason
        self.faults[node_id] = why
        self.noticed.set()


@asynccontextmanager
async def open_pipeline(
    pipeline: Pipeline,
    claims: Mapping[str, tuple[str, Claim]],
    open_tunnel: OpenTunnel,
    llama: LlamaOptions,
) -> AsyncIterator[Link]:
    """Yield an engine whose layers are on workers; it is killed when one of them is lost.

    Args:
        pipeline: Gets the tunnels, and records which workers are at fault.
        claims: By worker, the URL of its node's API and what to claim there.
        open_tunnel: Opens the tunnels.
        llama: How to run the engine.

    Raises:
        UnavailableError: A node does not lend its worker, or cannot be reached.
        OSError: No process can be started here.
    """
    async with AsyncExitStack() as stack:
        for node_id, (url, claim) in claims.items():
            with _refused(pipeline, node_id):
                tunnel = await stack.enter_async_context(open_tunnel(url, claim))
            pipeline.tunnels[node_id] = tunnel
        link = await stack.enter_async_context(open_llama_server(_options(pipeline, llama)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node_id in pipeline.tunnels:
            nursery.start_soon(_watch, pipeline, node_id, link, name=f"tunnel to {node_id}")
        try:
            yield link
            await _wait_noticed(pipeline)
        except UnavailableError:
            await _wait_noticed(pipeline)
            raise
        finally:
            nursery.cancel_scope.cancel()


def _options(pipeline: Pipeline, llama: LlamaOptions) -> LlamaOptions:
    """Return how to run the engine with the tunnels that are open."""
    names = {tunnel.endpoint: node_id for node_id, tunnel in pipeline.tunnels.items()}
    flags = split_flags(pipeline.place.stages[1:], list(names))
    arguments = (*llama.arguments, *flags)
    return replace(llama, gpu_layers=None, arguments=arguments, device_names=names)


@contextmanager
def _refused(pipeline: Pipeline, node_id: str) -> Iterator[None]:
    """Record which node does not lend its worker, and why."""
    try:
        yield
    except (TunnelRefusedError, PeerLostError) as error:
        pipeline.note_fault(node_id, "refused", f"it does not lend its worker: {error}")
        message = f"{node_id} does not accept its layers of {pipeline.model_id}: {error}"
        raise UnavailableError(message) from error


async def _watch(pipeline: Pipeline, node_id: str, link: Link) -> None:
    """End the engine when one of its workers is lost. Runs until then."""
    loss = await pipeline.tunnels[node_id].wait_lost()
    _log.warning("model %s: the worker on %s is lost (%s)", pipeline.model_id, node_id, loss)
    pipeline.note_fault(node_id, loss, f"its worker was lost ({loss})")
    link.kill()


async def _wait_noticed(pipeline: Pipeline) -> None:
    """Wait until a lost worker is known: its tunnel may report it later than the engine ends."""
    with trio.move_on_after(_NOTICE_SECONDS):
        await pipeline.noticed.wait()
