"""Sends events to a real exporter as a node does, one batch at a time."""

from pathlib import Path

import msgspec
import pynng

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.event import Event
from tests.processes import wait_for


class Emitter:
    """Plays a node towards an exporter: an outbox, sent one batch at a time.

    Args:
        directory: The directory of the `Pair`.
        name: The name of the node.
        session: The session; each run of a node has a new one.
    """

    def __init__(self, directory: Path, name: str = "node1", session: str = "s1") -> None:
        self.outbox = Outbox(name, session, 0.0)
        self._socket = pynng.Req0(send_timeout=10_000, recv_timeout=10_000)
        self._socket.dial(f"ipc://{directory / 'run' / wire.SOCKET_NAME}", block=True)

    def send(self, *happened: Event, goodbye: bool = False) -> None:
        """Emit the events and wait until they are counted; without events it sends a heartbeat."""
        for event in happened:
            self.outbox.emit(event)
        batch = self.outbox.next_batch(0.0, goodbye=goodbye)
        wait_for(lambda: self._is_taken(batch))
        self.outbox.acknowledge()

    def _is_taken(self, batch: bytes) -> bool:
        """Send a batch. It is refused until the exporter knows that the last run has left."""
        self._socket.send(batch)
        reply = msgspec.msgpack.decode(self._socket.recv(), type=wire.Reply)
        assert reply.error in ("", "conflict")
        return not reply.error

    def close(self) -> None:
        self._socket.close()
