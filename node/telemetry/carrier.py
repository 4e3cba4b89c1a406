"""Carries the outbox's batches to the exporter over nng REQ/REP, one in flight.

REQ/REP is used because nng's other patterns drop messages silently when the receiver dies. REQ
resends by itself after a lost connection, so a batch may arrive twice: the exporter skips repeats
by sequence number.
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
from shared.events.event import Event
from shared.events.node import NodePart
from shared.repeats import Repeats
from shared.runtime.beats import sleep_to_beat
from shared.runtime.guard import Guard

FLUSH_SECONDS: Final = 0.2
"""How long events are collected: five batches a second cost next to nothing, and metrics stay
fresh."""
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
    report: Callable[[], None] = lambda: None,
    note_page: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[None]:
    """Carry batches while the block runs; at its end, send the rest and say goodbye.

    If the block fails, it says no goodbye but still sends the last events, such as a failed load.

    Args:
        outbox: The source of the batches.
        socket_path: Where the exporter listens, now or later.
        levels: Returns the current value of every level, for an exporter that lacks them.
        guard: Runs the tasks.
        report: Called at each flush; emits what was counted since the last.
        note_page: Receives the URL of the exporter's status page with each reply.
    """
    with _dial(socket_path) as socket:
        carrier = _Carrier(outbox, socket, levels, report, note_page)
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
            with guard.contain("carrier"):
                await _finish(carrier, goodbye=well)


def _dial(path: Path) -> pynng.Req0:
    """Return a socket that connects to the exporter whenever it listens."""
    socket = pynng.Req0(
        resend_time=_RESEND_MILLISECONDS,
        reconnect_time_min=_RECONNECT_MILLISECONDS[0],
        reconnect_time_max=_RECONNECT_MILLISECONDS[1],
        recv_max_size=_REPLY_BYTES,
    )
    socket.dial(f"ipc://{path}", block=False)
    return socket


class _Carrier:
    def __init__(
        self,
        outbox: Outbox,
        socket: pynng.Req0,
        levels: Callable[[], Iterable[Event]],
        report: Callable[[], None],
        note_page: Callable[[str], None],
    ) -> None:
        self._outbox = outbox
        self._note_page = note_page
        self._socket = socket
        self._replied: int = socket.recv_fd
        """Readable when the reply has arrived."""
        self._levels = levels
        self._report = report
        self._levels_due = trio.current_time()
        self._repeats = Repeats(_log, trio.current_time)

    async def run(self) -> None:
        """Send the collected events, or a heartbeat without any. Runs until cancelled."""
        beat = 0.0
        while True:
            if trio.current_time() >= self._levels_due:
                self._emit_levels()
            if not self._outbox.empty or trio.current_time() >= beat:
                await self._exchange(self._outbox.next_batch(trio.current_time()))
                beat = trio.current_time() + wire.HEARTBEAT_SECONDS
            if not self._outbox.is_behind:
                await sleep_to_beat(FLUSH_SECONDS)

    async def pack(self) -> None:
        """Pack events while a batch is in flight or no exporter runs. Runs until cancelled.

        Packed events have a size limit, and many more of them fit in memory than of unpacked ones.
        """
        while True:
            self._report()
            self._outbox.collect(trio.current_time())
            await sleep_to_beat(FLUSH_SECONDS)

    async def finish(self, *, goodbye: bool) -> None:
        """Send the rest, with or without a goodbye. Ends when the exporter has accepted it."""
        self._report()
        while not self._outbox.empty:
            await self._exchange(self._outbox.next_batch(trio.current_time()))
        if goodbye:
            await self._exchange(self._outbox.next_batch(trio.current_time(), goodbye=True))

    async def _exchange(self, batch: bytes) -> None:
        while True:
            await self._send(batch)
            try:
                reply = _reply_decoder.decode(await self._receive())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._repeats.note("the exporter's reply is not a telemetry message")
                await trio.sleep(wire.HEARTBEAT_SECONDS)
            else:
                if self._settle(reply):
                    return
                await trio.sleep(_CONFLICT_SECONDS)

    async def _send(self, batch: bytes) -> None:
        # Do not use asend: pynng leaks the message when it is cancelled.
        while True:
            try:
                self._socket.send(batch, block=False)
            except pynng.TryAgain:  # no exporter is listening yet
                await trio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _receive(self) -> bytes:
        # Trio waits for the descriptor: pynng's own waits end in a callback on a thread of nng's.
        # After a reply that was not read it is readable without another, so then pynng waits.
        await trio.lowlevel.wait_readable(self._replied)
        try:
            message = self._socket.recv_msg(block=False)
        except pynng.TryAgain:
            message = await self._socket.arecv_msg()
        reply: bytes = message.bytes
        return reply

    def _settle(self, reply: wire.Reply) -> bool:
        """Process a reply. Return False if the batch must be sent again."""
        if reply.error:
            text = "the exporter refused a batch of metric events: %.100r"
            self._repeats.note(text, reply.error, kind=_REFUSED)
        else:
            self._repeats.settle(_REFUSED)
        if reply.error == "conflict":
            return False  # the other node of this name may be leaving
        self._note_page(reply.page_url)
        self._outbox.acknowledge(rejected=bool(reply.error))
        if reply.levels_wanted:
            self._emit_levels()
        return True

    def _emit_levels(self) -> None:
        self._levels_due = trio.current_time() + LEVELS_SECONDS
        for event in self._levels():
            self._outbox.emit(event)


async def _finish(carrier: _Carrier, *, goodbye: bool) -> None:
    """Send the rest, in a bounded time."""
    with trio.move_on_after(GOODBYE_SECONDS, shield=True) as grace:
        await carrier.finish(goodbye=goodbye)
    if grace.cancelled_caught:
        _log.warning("no exporter accepted the last metric events within %s s", GOODBYE_SECONDS)
