"""Opens tunnels to the workers of other nodes: the coordinator's end."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.pipeline.dial import Dialer
from node.pipeline.messages import (
    BEAT_SECONDS,
    Attaching,
    Beat,
    Claiming,
    Control,
    Lost,
    PeerGoneError,
    Ready,
    Refused,
    pack_request,
)
from node.pipeline.relay import open_end, relay
from node.pipeline.tunnel import Claim, Loss, Traffic, TunnelRefusedError
from node.routing.client import PeerLostError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust

_LOCAL: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
"""Longer than a lender waits for its worker."""
_EXPLANATION_SECONDS: Final = 0.5
"""How long the reason may come after the connection that was lost."""
_HOPS: Final = 1000
"""Limit of round trips that are kept for `take_traffic`."""


class Tunnels:
    """Opens tunnels; `open` is an `OpenTunnel`.

    Args:
        signer: Authenticates this node.
        trust: Verifies the certificates of other nodes.
    """

    def __init__(self, signer: Signer, trust: PeerTrust) -> None:
        self._dialer = Dialer(signer, trust)

    @asynccontextmanager
    async def open(self, api_url: str, claim: Claim) -> AsyncIterator["RemoteTunnel"]:
        """Claim the worker of the node at `api_url`, and keep it while the block runs.

        Raises:
            PeerLostError: The node cannot be reached or broke off.
            TunnelRefusedError: The node does not lend its worker.
        """
        claiming = pack_request(Claiming(claim, secrets.token_bytes(16)))
        stream, rest = await self._dialer.dial(api_url, claiming)
        try:
            control = _control(stream, rest, api_url)
            await _wait_ready(control, api_url)
            [listener] = await trio.open_tcp_listeners(0, host=_LOCAL, backlog=1)
            tunnel = RemoteTunnel(self._dialer, api_url, claim, control, listener)
            async with listener, trio.open_nursery() as nursery:
                nursery.start_soon(tunnel.run, name=f"tunnel to {api_url}")
                yield tunnel
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)


def _control(stream: trio.abc.Stream, received: bytes, api_url: str) -> Control:
    try:
        return Control(stream, received)
    except ValueError as error:
        raise PeerLostError(f"{api_url}: {error}") from error


async def _wait_ready(control: Control, api_url: str) -> None:
    try:
        answer = await control.receive(_START_SECONDS)
    except PeerGoneError as error:
        raise PeerLostError(f"{api_url}: the claim of its worker broke off") from error
    if isinstance(answer, Refused):
        raise TunnelRefusedError(f"{api_url}: {answer.message}", answer.reason)
    if not isinstance(answer, Ready):
        raise PeerLostError(f"{api_url}: the claim of its worker was not answered")


class RemoteTunnel:
    """The worker of another node, as if it listened here; see `Tunnel`."""

    def __init__(
        self,
        dialer: Dialer,
        api_url: str,
        claim: Claim,
        control: Control,
        listener: trio.SocketListener,
    ) -> None:
        self._dialer = dialer
        self._api_url = api_url
        self._claim = claim
        self._control = control
        self._listener = listener
        self._loss: Loss | None = None
        self._lost = trio.Event()
        self._sent_bytes = 0
        self._received_bytes = 0
        self._hops: list[float] = []
        self._beaten_at: float | None = None
        """When the heartbeat that is not yet answered was sent."""

    @property
    def endpoint(self) -> str:
        """Where the worker listens, for llama-server's `--rpc`."""
        return f"{_LOCAL}:{self._listener.socket.getsockname()[1]}"

    def take_traffic(self) -> Traffic:
        """Return what has passed since the last call."""
        taken = Traffic(self._sent_bytes, self._received_bytes, tuple(self._hops))
        self._sent_bytes = self._received_bytes = 0
        self._hops.clear()
        return taken

    async def wait_lost(self) -> Loss:
        """Wait until the worker is lost, and return why."""
        await self._lost.wait()
        assert self._loss is not None  # noqa: S101 - set before the event
        return self._loss

    async def run(self) -> None:
        """Serve the worker's clients one after the other. Ends when the worker is lost."""
        async with self._listener, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, name="tunnel messages")
            nursery.start_soon(self._beat, name="tunnel heartbeat")
            nursery.start_soon(self._accept, name="tunnel clients")
            await self._lost.wait()
            nursery.cancel_scope.cancel()

    def _lose(self, loss: Loss) -> None:
        if self._loss is None:
            self._loss = loss
            self._lost.set()

    async def _listen(self) -> None:
        """Read the lender's messages until the worker is lost."""
        try:
            while not isinstance(message := await self._control.receive(), Lost):
                if self._beaten_at is not None:
                    self._note_hop(trio.current_time() - self._beaten_at)
                    self._beaten_at = None
        except PeerGoneError as error:
            self._lose(error.loss)
        else:
            self._lose(message.reason)

    def _note_hop(self, seconds: float) -> None:
        self._hops.append(seconds)
        del self._hops[:-_HOPS]

    async def _beat(self) -> None:
        try:
            while True:
                if self._beaten_at is None:
                    self._beaten_at = trio.current_time()
                    await self._control.send(Beat())
                await trio.sleep(BEAT_SECONDS)
        except PeerGoneError as error:
            self._lose(error.loss)

    async def _accept(self) -> None:
        while True:
            try:
                await self._relay(await self._listener.accept())
            except (OSError, PeerLostError, TunnelRefusedError):
                await self._lose_late()

    async def _relay(self, client: trio.SocketStream) -> None:
        """Serve one client.

        Raises:
            PeerLostError: The node cannot be reached for it.
            TunnelRefusedError: The claim is not valid there any more.
        """
        near = open_end(client)
        try:
            attaching = Attaching(
                self._claim.node_id, self._claim.pipeline_id, secrets.token_bytes(16)
            )
            stream, _ = await self._dialer.dial(self._api_url, pack_request(attaching))
            far = open_end(stream)  # a worker speaks only when asked
            if await relay(near, far, self._note_bytes) is far:
                await self._lose_late()
        finally:
            near.reset()

    async def _lose_late(self) -> None:
        """Note that the worker is lost, for the reason that its node may still send."""
        with trio.move_on_after(_EXPLANATION_SECONDS):
            await self._lost.wait()
        self._lose("cut")

    def _note_bytes(self, sent: int, received: int) -> None:
        self._sent_bytes += sent
        self._received_bytes += received
