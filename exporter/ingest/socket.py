"""The telemetry socket: listens for nodes, exclusively and for this user or one group only."""

import errno
import logging
import os
import select
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pynng
import trio

from exporter.errors import StartupError
from exporter.ingest.socket_file import find_inode, for_this_user_only, wait_removed
from exporter.journal.lock import lock_file
from shared import wire
from shared.repeats import Repeats

Take = Callable[[bytes, int, Callable[[], Container[int]]], Awaitable[wire.Reply]]

_REPLY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)
_encoder = msgspec.msgpack.Encoder()


class TelemetrySocket:
    """Listens in a runtime directory; `open_socket` yields one.

    Trio waits for the socket's descriptors, and no call of pynng waits: its own waits end in a
    callback on a thread of nng's and cost more than twice as much CPU time.

    Args:
        socket: A socket that is not yet listening.
        path: Where to listen.
        group: The group whose members may also connect; None for this user only.
    """

    def __init__(self, socket: pynng.Rep0, path: Path, group: int | None = None) -> None:
        self._socket = socket
        self._path = path
        self._group = group
        self._inode = -1
        self._received = socket.recv_fd
        """Readable when a message can be received."""
        self._sendable = socket.send_fd
        """Readable when the last message can be replied to."""
        self._poll = select.poll()
        self._poll.register(self._sendable, select.POLLIN)
        self._repeats = Repeats(_log)
        self._listen()

    async def receive(self, take: Take) -> None:
        """Answer every message. Runs until cancelled.

        Args:
            take: Counts a message, given the connection that delivered it and the live connections.
        """
        while True:
            message = await self._next_message()
            pipe = message.pipe.id if message.pipe else -1
            reply = await take(message.bytes, pipe, self._live)
            await self._reply(_encoder.encode(reply))

    async def _next_message(self) -> pynng.Message:
        await trio.lowlevel.wait_readable(self._received)
        try:
            return self._socket.recv_msg(block=False)
        except pynng.TryAgain:
            # The client has left, its message with it, and nng leaves the descriptor readable
            # until the next message: waiting for it would be a busy loop.
            return await self._socket.arecv_msg()

    async def _reply(self, reply: bytes) -> None:
        """Reply to the last message, unless its client has stopped reading."""
        # While an earlier reply is still being sent, a send would fail and lose this one.
        if not self._poll.poll(0):
            with trio.move_on_after(_REPLY_SECONDS):
                await trio.lowlevel.wait_readable(self._sendable)
        try:
            self._socket.send(reply, block=False)
        except pynng.TryAgain:
            self._repeats.note("a node does not read its replies")
        except pynng.NNGException as error:  # the client will ask again
            _log.debug("cannot send a reply: %s", error)

    async def keep_path(self) -> None:
        """Listen again when the socket's file was removed. Runs until cancelled.

        Without this, a node that starts later could not connect. Connected nodes lose their
        connection and dial again.
        """
        while True:
            await wait_removed(self._path, self._inode)
            self._repeats.note("%s was removed: listening again", self._path)
            try:
                _make_private(self._path.parent, self._group)
                for listener in self._socket.listeners:
                    listener.close()
                self._listen()
            except StartupError as error:
                self._repeats.note("no new node can connect: %s", error, level=logging.ERROR)

    def _live(self) -> set[int]:
        return {pipe.id for pipe in self._socket.pipes}

    def _listen(self) -> None:
        try:
            with for_this_user_only():
                self._socket.listen(f"ipc://{self._path}")
        except pynng.NNGException as error:
            message = f"{self._path} cannot be listened on ({error}): choose another --runtime-dir"
            raise StartupError(message) from error
        if self._group is not None:
            _share(self._path, self._group, 0o660)
        self._inode = find_inode(self._path)


@contextmanager
def open_socket(runtime_dir: Path, group: int | None = None) -> Iterator[TelemetrySocket]:
    """Listen for nodes, exclusively in this directory, for this user and optionally a group.

    Raises:
        StartupError: The directory is unusable, or another exporter listens there.
    """
    _make_private(runtime_dir, group)
    lock = _lock(runtime_dir)
    try:
        with pynng.Rep0(recv_max_size=wire.MESSAGE_BYTES) as socket:
            yield TelemetrySocket(socket, runtime_dir / wire.SOCKET_NAME, group)
    finally:
        os.close(lock)


def _make_private(directory: Path, group: int | None) -> None:
    try:
        found = directory.is_dir()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if group is not None and not found:
            _share(directory, group, 0o750)
        status = directory.stat()
        if status.st_uid != os.getuid():
            raise StartupError(f"{directory} belongs to another user: choose another --runtime-dir")
        if status.st_mode & 0o022:
            message = f"{directory} can be written by others: choose another --runtime-dir"
            raise StartupError(message)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if group is not None and not _may_enter(status, group):
            message = (
                f"{directory} does not let --socket-group {group} in: give it to the group, 0750"
            )
            raise StartupError(message)
    except OSError as error:
        raise _unusable(directory, error) from error


def _may_enter(status: os.stat_result, group: int) -> bool:
    return bool(status.st_mode & (0o010 if status.st_gid == group else 0o001))


def _share(path: Path, group: int, mode: int) -> None:
    """Grant a group access to what only this user could use."""
    try:
        # Only if needed: a service's system call filter may forbid it.
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
    except PermissionError as error:
        raise StartupError(f"--socket-group {group}: this user is not a member") from error
    path.chmod(mode)


def _lock(directory: Path) -> int:
    """Keep other exporters out: an old listener that closes late would unlink a new socket."""
    try:
        return lock_file(directory / "exporter.lock", "listens in", "choose another --runtime-dir")
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> StartupError:
    return StartupError(
        f"{directory} cannot be used ({error.strerror}): choose another --runtime-dir"
    )
