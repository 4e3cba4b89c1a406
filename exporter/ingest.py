"""Takes batches from the telemetry socket and counts each event exactly once.

`Ingest` decides, without I/O; `receive` is the thin loop around it.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pynng
import trio

from exporter import catalogue as c
from exporter.errors import StartupError
from exporter.state import Node, Session, State
from shared import events, wire
from shared.settings import NODE_ID

_SESSIONS_KEPT: Final = 8
"""Sessions of a node that are remembered, so that a late copy of a batch is still known."""

_log = logging.getLogger(__name__)
_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(wire.Batch)
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_event_decoder = msgspec.msgpack.Decoder(events.AnyEvent)
_events_decoder = msgspec.msgpack.Decoder(list[events.AnyEvent])


class Ingest:
    """Decides what becomes of each batch.

    Args:
        state: What the batches are counted into.
        timeout_seconds: A node that is silent for so long counts as gone.
    """

    def __init__(self, state: State, timeout_seconds: float) -> None:
        self._state = state
        self._timeout = timeout_seconds

    def take(self, message: bytes, now: float) -> wire.Reply:
        """Count one message and give the answer to it. Whatever the bytes are, it never raises.

        Args:
            message: What came, perhaps not from a node at all.
            now: The time on the clock that `expire` is called with, seconds.
        """
        try:
            batch = _batch_decoder.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._reject("malformed")
        if batch.protocol != wire.PROTOCOL:
            return self._reject("protocol")
        try:
            raw = _raw_decoder.decode(batch.events)
        except (msgspec.DecodeError, RecursionError):
            return self._reject("malformed")
        if not NODE_ID.fullmatch(batch.node_id) or not _is_sane(batch, len(raw)):
            return self._reject("malformed")
        return self._count(batch, raw, now)

    def expire(self, now: float) -> None:
        """Take the levels of every node away that is silent for too long."""
        for node in self._state.nodes.values():
            if node.up and now - node.heard_at > self._timeout:
                _log.warning("node %s is gone: silent for %.1f s", node.node_id, self._timeout)
                self._lose(node)

    def _count(self, batch: wire.Batch, raw: list[msgspec.Raw], now: float) -> wire.Reply:
        node = self._state.node(batch.node_id)
        session = self._enter(node, batch.session)
        seen = min(len(raw), max(0, session.sequence - batch.first_sequence + 1))
        fresh = raw[seen:]
        happened = _decode(batch.events, raw) if not seen else _decode_each(fresh)
        levels_wanted = not node.up and not batch.goodbye
        node.up = True
        node.heard_at = now
        node.heard_time = time.time()
        node.lag_seconds = batch.age_seconds
        self._state.apply(node, session, happened)
        self._state.move(c.BATCHES, (node.node_id,), 1)
        self._state.move(c.DUPLICATES, (node.node_id,), seen)
        if unknown := len(fresh) - len(happened):
            self._state.move(c.EVENTS, (node.node_id, "unknown"), unknown)
        if fresh:
            session.applied += len(fresh)
            session.sequence = batch.first_sequence + len(raw) - 1
        self._reckon(node, session, batch)
        if batch.goodbye:
            _log.info("node %s said goodbye", node.node_id)
            self._lose(node)
        return wire.Reply(wire.PROTOCOL, session.sequence, False, levels_wanted, "")

    def _enter(self, node: Node, name: str) -> Session:
        """Find the session that a batch belongs to; a new one replaces the node's levels."""
        if name not in node.sessions:
            if node.up:
                self._lose(node)
            node.sessions[name] = Session(name)
            while len(node.sessions) > _SESSIONS_KEPT:
                del node.sessions[next(iter(node.sessions))]
        node.current = name
        return node.sessions[name]

    def _reckon(self, node: Node, session: Session, batch: wire.Batch) -> None:
        """Bring the proof's two other terms up to date: what was emitted, what was dropped."""
        self._state.move_total(session, c.EMITTED, (node.node_id,), batch.emitted)
        for reason, count in batch.dropped.items():
            known = reason if reason in c.DROPS else c.OTHER
            self._state.move_total(session, c.DROPPED, (node.node_id, known), count)

    def _lose(self, node: Node) -> None:
        node.up = False
        node.state = "offline"
        node.models.clear()
        self._state.forget_levels(node.node_id)

    def _reject(self, reason: str) -> wire.Reply:
        self._state.move(c.REJECTED, (reason,), 1)
        return wire.Reply(wire.PROTOCOL, 0, False, False, reason)


def _is_sane(batch: wire.Batch, count: int) -> bool:
    totals = (batch.emitted, *batch.dropped.values())
    return (
        batch.first_sequence >= 1
        and batch.emitted >= batch.first_sequence - 1 + count
        and all(total >= 0 for total in totals)
        and batch.age_seconds >= 0
        and len(batch.session) <= wire.SESSION_CHARACTERS
    )


def _decode(packed: msgspec.Raw, raw: list[msgspec.Raw]) -> list[events.Event]:
    """Decode all at once, which is several times faster, else one by one."""
    try:
        return list(_events_decoder.decode(packed))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_each(raw)


def _decode_each(raw: list[msgspec.Raw]) -> list[events.Event]:
    """Decode what is known; the rest comes from a newer node and is counted by its absence."""
    happened: list[events.Event] = []
    for one in raw:
        try:
            happened.append(_event_decoder.decode(one))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return happened


@contextmanager
def open_socket(runtime_dir: Path) -> Iterator[pynng.Rep0]:
    """Listen for nodes, alone in this directory and for this user only.

    Raises:
        StartupError: The directory is unusable, or another exporter listens there.
    """
    _make_private(runtime_dir)
    with _lock(runtime_dir / "exporter.lock"), _listener(runtime_dir / wire.SOCKET_NAME) as socket:
        yield socket


async def receive(socket: pynng.Rep0, ingest: Ingest) -> None:
    """Answer every message. Runs until cancelled."""
    while True:
        message = await socket.arecv()
        reply = ingest.take(message, trio.current_time())
        try:
            socket.send(_encoder.encode(reply), block=False)
        except pynng.NNGException as error:  # the asker is gone; it will ask again
            _log.debug("no reply could be sent: %s", error)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid():
            raise StartupError(f"{directory} belongs to another user: choose another --runtime-dir")
        if status.st_mode & 0o077:
            directory.chmod(0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"{directory} cannot be used ({error.strerror}): choose another --runtime-dir"
        raise StartupError(message) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock on a file: an old listener that closed late would unlink the new one's socket."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        message = (
            f"another exporter (process {owner}) listens in {path.parent}: "
            "stop it or choose another --runtime-dir"
        )
        raise StartupError(message) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _listener(path: Path) -> Iterator[pynng.Rep0]:
    with pynng.Rep0(recv_max_size=wire.MESSAGE_BYTES) as socket:
        before = os.umask(0o177)  # pynng cannot be told the socket file's mode
        try:
            socket.listen(f"ipc://{path}")
        except pynng.NNGException as error:
            message = f"{path} cannot be listened on ({error}): choose another --runtime-dir"
            raise StartupError(message) from error
        finally:
            os.umask(before)
        yield socket
