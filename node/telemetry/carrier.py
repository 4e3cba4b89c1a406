"""Carries the outbox's batches to the exporter over nng REQ/REP, one in flight.

Request and reply, because nng's other patterns drop silently when the receiver dies. REQ sends
again by itself after a lost connection, so a batch may arrive twice: the exporter skips by
sequence number.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pynng
import trio

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events import Event, NodePart
from shared.repeats import Repeats
from shared.runtime.guard import Guard

FLUSH_SECONDS: Final = 0.2
"""Events gather this long: five batches a second cost next to nothing, and a metric is no older."""
GOODBYE_SECONDS: Final = 2.0
LEVELS_SECONDS: Final = 10.0
_RECONNECT_MILLISECONDS: Final = (20, 200)
_RESEND_MILLISECONDS: Final = 2000
_REPLY_BYTES: Final = 64 * 1024
_RETRY_SECONDS: Final = 0.05
_CONFLICT_SECONDS: Final = 0.5
_REFUSED: Final = "refused"

_log = logging.getLogger(__name__)
_reply_decoder = msgspec.msgpack.Decoder(wire.Reply)


@asynccontextmanager
async def open_carrier(
    outbox: Outbox,
    socket_path: Path,
    levels: Callable[[], Iterable[Event]],
    guard: Guard[NodePart],
) -> AsyncIterator[None]:
    """Carry for as long as the block runs; at its end send the rest and say goodbye.

    A block that fails says no goodbye; but what came last, such as a load that failed, is sent.

    Args:
        outbox: What to carry.
        socket_path: Where the exporter listens, now or later.
        levels: Returns every level as it is now, for an exporter that lacks them.
        guard: Runs what carries.
    """
    socket = pynng.Req0(
        resend_time=_RESEND_MILLISECONDS,
        reconnect_time_min=_RECONNECT_MILLISECONDS[0],
        reconnect_time_max=_RECONNECT_MILLISECONDS[1],
        recv_max_size=_REPLY_BYTES,
    )
    with socket:
        socket.dial(f"ipc://{socket_path}", block=False)
        carrier = _Carrier(outbox, socket, levels)
        well = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guard, "carrier", carrier.run, name="telemetry carrier")
                nursery.start_soon(guard, "packer", carrier.pack, name="telemetry packer")
                try:
                    yield
                    well = True
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with (
                guard.contain("carrier"),
                trio.move_on_after(GOODBYE_SECONDS, shield=True) as grace,
            ):
                await carrier.finish(goodbye=well)
            if grace.cancelled_caught:
                _log.warning("no exporter took the last metric events within %s s", GOODBYE_SECONDS)


class _Carrier:
    def __init__(
        self,
        outbox: Outbox,
        socket: pynng.Req0,
        levels: Callable[[], Iterable[Event]],
    ) -> None:
        self._outbox = outbox
        self._socket = socket
        self._levels = levels
        self._levels_due = trio.current_time()
        self._repeats = Repeats(_log, trio.current_time)

    async def run(self) -> None:
        """Send what gathers, and a heartbeat when nothing does. Runs until cancelled."""
        beat = 0.0
        while True:
            if trio.current_time() >= self._levels_due:
                self._emit_levels()
            if not self._outbox.empty or trio.current_time() >= beat:
                await self._exchange(self._outbox.next_batch(trio.current_time()))
                beat = trio.current_time() + wire.HEARTBEAT_SECONDS
            if not self._outbox.is_behind:
                await trio.sleep(FLUSH_SECONDS)

    async def pack(self) -> None:
        """Pack what gathers while a batch is under way or nobody is there. Runs until cancelled.

        Packed events are bounded by their bytes, and far more of them fit than of unpacked ones.
        """
        while True:
            self._outbox.collect(trio.current_time())
            await trio.sleep(FLUSH_SECONDS)

    async def finish(self, *, goodbye: bool) -> None:
        """Send what is left, with or without a goodbye. Ends when the exporter has taken it."""
        while not self._outbox.empty:
            await self._exchange(self._outbox.next_batch(trio.current_time()))
        if goodbye:
            await self._exchange(self._outbox.next_batch(trio.current_time(), goodbye=True))

    async def _exchange(self, batch: bytes) -> None:
        while True:
            await self._send(batch)
            try:
                reply = _reply_decoder.decode(await self._socket.arecv())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._repeats.note("the exporter's answer is not one of the telemetry protocol")
                await trio.sleep(wire.HEARTBEAT_SECONDS)
            else:
                if self._settle(reply):
                    return
                await trio.sleep(_CONFLICT_SECONDS)

    async def _send(self, batch: bytes) -> None:
        # Never asend: pynng leaks the message when it is cancelled.
        while True:
            try:
                self._socket.send(batch, block=False)
            except pynng.TryAgain:  # nobody listens yet
                await trio.sleep(_RETRY_SECONDS)
            else:
                return

    def _settle(self, reply: wire.Reply) -> bool:
        """Act on a reply; false where the batch has to be sent again."""
        if reply.error:
            text = "the exporter refused a batch of metric events: %.100r"
            self._repeats.note(text, reply.error, kind=_REFUSED)
        else:
            self._repeats.settle(_REFUSED)
        if reply.error == "conflict":
            return False  # the other node of this name may be on its way out
        self._outbox.acknowledge(rejected=bool(reply.error))
        if reply.levels_wanted:
            self._emit_levels()
        return True

    def _emit_levels(self) -> None:
        self._levels_due = trio.current_time() + LEVELS_SECONDS
        for event in self._levels():
            self._outbox.emit(event)
