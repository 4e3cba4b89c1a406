"""The telemetry socket answers real connections of this user, from one exporter only."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pynng
import pytest
import trio
from trio.testing import trio_test

from exporter.errors import StartupError
from exporter.ingest.batches import Ingest
from exporter.ingest.socket import open_socket
from exporter.journal.store import Store
from exporter.metrics.catalogue.telemetry import DUPLICATES, REJECTED
from exporter.metrics.state import State
from shared import wire
from tests.builders import every_event, number, pack_batch

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 30.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that does not exist yet, with a path short enough for a socket."""
    return tmp_path / "run"


@asynccontextmanager
async def open_exporter(directory: Path) -> AsyncIterator[Store]:
    """Answer on the socket in a directory until the block ends."""
    store = Store(Ingest(State(), 2.5), directory, None, "there is no disk in these tests")
    with trio.fail_after(LIMIT_SECONDS), open_socket(directory) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.receive, store.take)
            nursery.start_soon(listening.keep_path)
            yield store
            nursery.cancel_scope.cancel()


def dial(directory: Path) -> pynng.Req0:
    return pynng.Req0(dial=f"ipc://{directory / wire.SOCKET_NAME}", block_on_dial=True)


async def ask(asking: pynng.Req0, message: bytes) -> wire.Reply:
    while True:
        try:
            asking.send(message, block=False)
            break
        except pynng.TryAgain:  # nng reconnects
            await trio.sleep(0.01)
    return msgspec.msgpack.decode(await asking.arecv(), type=wire.Reply)


@trio_test
async def test_batch_is_counted_and_answered(directory: Path) -> None:
    """A batch that a node sends is counted once, even if it is sent twice."""
    async with open_exporter(directory) as store:
        with dial(directory) as node:
            message = pack_batch(*every_event())
            replies = [await ask(node, message) for _ in range(2)]
            assert [reply.applied for reply in replies] == [len(every_event())] * 2
            assert [reply.levels_wanted for reply in replies] == [True, False]
            assert number(store.state, DUPLICATES, "n1") == len(every_event())


@trio_test
async def test_garbage_is_answered_and_counted(directory: Path) -> None:
    """Garbage is answered and counted, and the next batch is served."""
    async with open_exporter(directory) as store:
        with dial(directory) as stranger:
            for garbage in (b"", b"\xff" * 9, b"GET / HTTP/1.1\r\n\r\n", bytes(500_000)):
                assert (await ask(stranger, garbage)).error == "malformed"
            assert (await ask(stranger, pack_batch(protocol=9))).error == "protocol"
            assert not (await ask(stranger, pack_batch(*every_event()))).error
        await store.tick(trio.current_time())
        assert number(store.state, REJECTED, "malformed") == 4
        assert number(store.state, REJECTED, "protocol") == 1


@trio_test
async def test_stranger_who_speaks_no_nng_does_no_harm(directory: Path) -> None:
    """A connection that does not speak nng does not disturb the others."""
    async with open_exporter(directory):
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00SP\x00\x00\x30\x00\x00" + b"\xff" * 64, b""):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(directory / wire.SOCKET_NAME))
                stranger.sendall(sent)
        with dial(directory) as node:
            assert not (await ask(node, pack_batch())).error


@trio_test
async def test_asker_that_leaves_does_no_harm(directory: Path) -> None:
    """A node that leaves before the reply does not disturb the others."""
    async with open_exporter(directory):
        for _ in range(5):
            with dial(directory) as node:
                node.send(pack_batch(), block=False)
        with dial(directory) as node:
            assert not (await ask(node, pack_batch())).error


@trio_test
async def test_asker_that_reads_no_reply_does_not_stop_the_others(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that does not read its replies costs the others at most a second for each."""
    async with open_exporter(directory):
        stream = await trio.open_unix_socket(directory / wire.SOCKET_NAME)
        await stream.send_all(
            b"\x00SP\x00\x00\x30\x00\x00"
        )  # a requester's greeting in nng's protocol
        request = b"\x80\x00\x00\x01"  # its number, and no batch at all
        asked = b"\x01" + len(request).to_bytes(8, "big") + request
        while "does not read its replies" not in caplog.text:
            with trio.move_on_after(0.1):
                await stream.send_all(asked)
        with dial(directory) as node:
            assert not (await ask(node, pack_batch())).error
        await stream.aclose()


class Rounds(trio.abc.Instrument):
    """Counts the event loop's waits."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.count += 1


@trio_test
async def test_message_lost_with_its_connection_keeps_the_exporter_idle(directory: Path) -> None:
    """A message whose connection ended before it was received is not waited for in a busy loop."""
    store, rounds = Store(Ingest(State(), 2.5), directory, None, "no disk"), Rounds()
    path = directory / wire.SOCKET_NAME
    with trio.fail_after(LIMIT_SECONDS), open_socket(directory) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.keep_path)
            with dial(directory) as node:
                await node.asend(pack_batch())
                path.unlink()
                while not path.is_socket():  # noqa: ASYNC110
                    await trio.sleep(0.01)  # all connections end
            nursery.start_soon(listening.receive, store.take)
            trio.lowlevel.add_instrument(rounds)
            await trio.sleep(0.2)
            trio.lowlevel.remove_instrument(rounds)
            assert rounds.count < 100
            with dial(directory) as node:
                assert not (await ask(node, pack_batch())).error
                assert not (await ask(node, pack_batch())).error
            nursery.cancel_scope.cancel()


@trio_test
async def test_second_node_of_one_name_is_refused_while_the_first_lives(directory: Path) -> None:
    """A second live node with the same name is refused until the first one is gone."""
    async with open_exporter(directory):
        with dial(directory) as first, dial(directory) as second:
            await ask(first, pack_batch())
            assert (await ask(second, pack_batch(session="s2"))).error == "conflict"
            first.close()
            while (await ask(second, pack_batch(session="s2"))).error:  # noqa: ASYNC110
                await trio.sleep(0.01)  # until nng notices that the first has left


def test_socket_is_for_this_user_only(directory: Path) -> None:
    """Only this user can reach the socket, with any umask."""
    before = os.umask(0)
    try:
        with open_socket(directory):
            path = directory / wire.SOCKET_NAME
            assert path.is_socket()
            assert path.stat().st_mode & 0o777 == 0o600
            assert directory.stat().st_mode & 0o777 == 0o700
            assert (directory / "exporter.lock").stat().st_mode & 0o777 == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_directory_that_others_may_write_is_refused_and_left_alone(
    directory: Path, mode: int
) -> None:
    """A directory that others can write is refused, and its mode is not changed."""
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StartupError, match="written by others"), open_socket(directory):
        pass
    assert directory.stat().st_mode & 0o7777 == mode


def test_directory_that_others_may_read_will_do(directory: Path) -> None:
    """A directory that others can only read is accepted, like systemd's."""
    directory.mkdir()
    directory.chmod(0o755)
    with open_socket(directory):
        assert (directory / wire.SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o755


AS_USER = """
import os, sys
from pathlib import Path
import pynng
from exporter.ingest.socket import open_socket
os.setgroups([int(group) for group in sys.argv[2].split(",") if group])
os.setgid(4001)
os.setuid(4001)
path = Path(sys.argv[1])
"""
"""Change the user only after all imports: the interpreter may be readable by root only."""


def as_user(groups: str, program: str, path: Path) -> str:
    """Run a program as another user; return the last line that it printed."""
    command = [sys.executable, "-c", AS_USER + program, str(path), groups]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    return (done.stdout + done.stderr).splitlines()[-1]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made) / "run"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
def test_group_may_connect_and_nobody_else(open_directory: Path) -> None:
    """Members of the group can connect but not replace the socket; others cannot connect."""
    path = open_directory / wire.SOCKET_NAME
    dialled = "pynng.Req0(dial=f'ipc://{path}', block_on_dial=True); print('in')"
    with open_socket(open_directory, 4242):
        assert stat.S_IMODE(open_directory.stat().st_mode) == 0o750
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert as_user("4242", dialled, path) == "in"
        assert "PermissionDenied" in as_user("", dialled, path)
        assert "PermissionError" in as_user("4242", "path.unlink()", path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
@pytest.mark.parametrize("prepared", [False, True])
def test_group_that_cannot_be_let_in_is_refused(open_directory: Path, *, prepared: bool) -> None:
    """A group that the user or the directory does not allow is refused in one line."""
    open_directory.parent.chmod(0o777)
    if prepared:
        open_directory.mkdir(0o700)
        os.chown(open_directory, 4001, 4001)
    said = as_user("", "with open_socket(path, 4242): pass", open_directory)
    assert "StartupError" in said
    assert "--socket-group 4242" in said


def test_missing_parents_are_made(directory: Path) -> None:
    """Missing parent directories are created."""
    with open_socket(directory / "a" / "b"):
        assert (directory / "a" / "b" / wire.SOCKET_NAME).is_socket()


def test_second_exporter_is_refused(directory: Path) -> None:
    """A second exporter in the directory is refused, and the first is named."""
    with (
        open_socket(directory),
        pytest.raises(StartupError, match=f"process {os.getpid()}.*--runtime-dir"),
        open_socket(directory),
    ):
        pass


@trio_test
async def test_refused_second_exporter_leaves_the_first_alone(directory: Path) -> None:
    """A refused second exporter does not touch the first one's socket."""
    async with open_exporter(directory):
        with pytest.raises(StartupError), open_socket(directory):
            pass
        with dial(directory) as node:
            assert not (await ask(node, pack_batch())).error


def test_directory_is_free_after_a_clean_end(directory: Path) -> None:
    """The directory can be used again at once, even after a failed start."""
    with open_socket(directory):
        pass
    with pytest.raises(ZeroDivisionError), open_socket(directory):
        raise ZeroDivisionError
    with open_socket(directory):
        pass


def test_socket_of_a_killed_exporter_is_taken_over(directory: Path) -> None:
    """The socket of a killed exporter is taken over."""
    program = (
        "import sys, time; from pathlib import Path; "
        "from exporter.ingest.socket import open_socket\n"
        "with open_socket(Path(sys.argv[1])): print('open', flush=True); time.sleep(600)"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"open\n"
        with pytest.raises(StartupError, match=f"process {killed.pid}"), open_socket(directory):
            pass
        killed.send_signal(signal.SIGKILL)
    assert (directory / wire.SOCKET_NAME).is_socket()

    async def reach_the_next() -> None:
        async with open_exporter(directory):
            with dial(directory) as node:
                assert not (await ask(node, pack_batch())).error

    trio.run(reach_the_next)


@trio_test
async def test_node_finds_the_next_exporter_by_itself(directory: Path) -> None:
    """A request that an ended exporter left unanswered is answered by the next one."""
    address = f"ipc://{directory / wire.SOCKET_NAME}"
    with pynng.Req0(resend_time=100, reconnect_time_min=20, reconnect_time_max=50) as node:
        async with open_exporter(directory):
            node.dial(address, block=True)
            await ask(node, pack_batch())
        with open_socket(directory):
            node.send(pack_batch())  # there is no exporter to answer
        with trio.fail_after(LIMIT_SECONDS):
            async with open_exporter(directory):
                reply = msgspec.msgpack.decode(await node.arecv(), type=wire.Reply)
        assert not reply.error


@trio_test
async def test_removed_socket_is_made_anew(directory: Path) -> None:
    """A removed socket is recreated, and connected nodes are not disturbed."""
    path = directory / wire.SOCKET_NAME
    async with open_exporter(directory):
        with dial(directory) as before:
            await ask(before, pack_batch())
            path.unlink()
            while not path.is_socket():  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert path.stat().st_mode & 0o777 == 0o600
            assert not (await ask(before, pack_batch())).error
            with dial(directory) as after:
                assert not (await ask(after, pack_batch(node_id="n2"))).error


def test_directory_that_cannot_be_made_is_refused(directory: Path) -> None:
    """A directory that cannot be created is refused with the flag to set."""
    directory.write_text("in the way")
    for place in (directory, directory / "below"):
        with pytest.raises(StartupError, match=rf"{place} .*--runtime-dir"), open_socket(place):
            pass


def test_unwritable_directory_is_refused(directory: Path) -> None:
    """An unwritable directory is refused with the flag to set."""
    place = Path("/proc/telemetry")  # not even root can create a directory there
    with pytest.raises(StartupError, match=r"/proc/telemetry .*--runtime-dir"), open_socket(place):
        pass
    if os.geteuid() != 0:
        directory.mkdir(mode=0o500)
        with pytest.raises(StartupError, match="--runtime-dir"), open_socket(directory):
            pass


def test_directory_of_another_user_is_refused(directory: Path) -> None:
    """A directory of another user is refused."""
    if os.geteuid() == 0:
        directory.mkdir()
        os.chown(directory, 12345, -1)
    place = directory if os.geteuid() == 0 else Path("/")
    with pytest.raises(StartupError, match=r"another user.*--runtime-dir"), open_socket(place):
        pass


def test_something_else_at_the_sockets_place_is_refused(directory: Path) -> None:
    """A file that is not a socket is not removed, and the error names it."""
    (directory / wire.SOCKET_NAME).mkdir(parents=True)
    refused = pytest.raises(StartupError, match=r"telemetry\.sock .*--runtime-dir")
    with refused, open_socket(directory):
        pass
    assert (directory / wire.SOCKET_NAME).is_dir()


def test_lock_that_cannot_be_had_is_refused(directory: Path) -> None:
    """A lock file that cannot be opened is refused in one line."""
    (directory / "exporter.lock").mkdir(parents=True)
    with pytest.raises(StartupError, match="--runtime-dir"), open_socket(directory):
        pass
