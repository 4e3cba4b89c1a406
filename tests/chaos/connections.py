"""Faults between node and exporter: a missing socket, a second node or exporter, garbage."""

import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import pynng

from shared import wire
from shared.wire import SOCKET_NAME
from tests.builders import every_event, pack_batch
from tests.chaos.ground import NODE, Ground, quiet_port
from tests.chaos.processes import REPOSITORY
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row
from tests.chaos.watch import Watch
from tests.processes import wait_for

HEARD_SECONDS: Final = 3.0
_REJECTED: Final = "exporter_rejected_batches_total"
_SECOND: Final = "node2"
_QUIET_RATE: Final = 1000.0
_SEED: Final = 20240229
_REPLY_MILLISECONDS: Final = 5000
_GARBAGE_BYTES: Final = 4096

_reply_decoder = msgspec.msgpack.Decoder(wire.Reply)


def socket_removed(directory: Path) -> list[Row]:
    """Delete the socket's file while a node is connected, then start another node."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        first = ground.emitter()
        ground.wait_caught_up(first)
        (ground.runtime / SOCKET_NAME).unlink()
        second = ground.emitter(_SECOND, _QUIET_RATE)
        began = time.monotonic()
        wait_for(lambda: ground.value("node_up", node_id=_SECOND) == 1)
        heard = time.monotonic() - began
        assert (first.end(), second.end()) == (0, 0)
        return [
            Row(
                f"a node that starts afterwards is connected within {HEARD_SECONDS:g} s",
                f"{heard:.2f} s after its start",
                heard <= HEARD_SECONDS,
            ),
            *equation_rows(ground, first.truth()),
            *equation_rows(ground, second.truth(), _SECOND),
            watch.row(),
            log_row(ground),
        ]


def two_exporters(directory: Path) -> list[Row]:
    """Start a second exporter in the first one's runtime directory, then in its state directory."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        others = {
            "runtime directory": (ground.runtime, directory / "state-2"),
            "state directory": (directory / "run-2", ground.state),
        }
        rows = [_refused_row(what, *where) for what, where in others.items()]
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        return [*rows, *equation_rows(ground, emitter.truth()), watch.row(), log_row(ground)]


def two_nodes(directory: Path, seconds: float = 5.0) -> list[Row]:
    """Start a second node with the name of a live one, then end the first."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        first = ground.emitter(rate=_QUIET_RATE)
        ground.wait_caught_up(first)
        second = ground.emitter(rate=_QUIET_RATE)
        refused = wait_for(lambda: ground.value(_REJECTED, reason="conflict") or 0)
        reasons = wait_for(lambda: _doubled(ground))
        time.sleep(seconds)
        mixed = ground.applied_kinds(NODE).total() > first.truth().emitted
        again = ground.value(_REJECTED, reason="conflict") or 0
        assert first.end() == 0
        ground.wait_caught_up(second, first.truth().emitted)
        assert second.end() == 0
        return [
            Row(
                "the second node is refused while the first lives",
                f"{again:,.0f} batches refused, {'events' if mixed else 'no event'} counted",
                again > refused and not mixed,
            ),
            Row("/health says so", reasons, bool(reasons)),
            *equation_rows(ground, first.truth() + second.truth()),
            watch.row(),
            log_row(ground),
        ]


def garbage(directory: Path, messages: int = 300) -> list[Row]:
    """Send garbage over the telemetry protocol and past it, while a node sends events."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        path = ground.runtime / SOCKET_NAME
        _talk_nonsense(path)
        answers = [_ask(path, message) for message in _garbage(messages)]
        malformed = answers.count("malformed")
        counted = wait_for(lambda: _counted_all(ground, malformed))
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        return [
            Row(
                "random bytes and cut batches are refused and counted",
                f"{len(answers)} sent, {malformed} refused as malformed, {counted:,.0f} counted",
                malformed == len(answers) == counted,
            ),
            *equation_rows(ground, emitter.truth()),
            watch.row(),
            log_row(ground),
        ]


def _counted_all(ground: Ground, malformed: int) -> float | None:
    counted = ground.value(_REJECTED, reason="malformed") or 0
    return counted if counted >= malformed else None


def _refused_row(what: str, runtime: Path, state: Path) -> Row:
    flags = [f"--runtime-dir={runtime}", f"--state-dir={state}", f"--metrics-port={quiet_port()}"]
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if " INFO " not in line]
    return Row(
        f"a second exporter on one {what} ends with code 1 and says why in one line",
        f"code {done.returncode}, {len(said)} lines: {said[-1] if said else ''}",
        done.returncode == 1 and len(said) == 1,
    )


def _doubled(ground: Ground) -> str:
    reasons: list[str] = ground.health().get("reasons", [])
    return next((reason for reason in reasons if "two live nodes" in reason), "")


def _garbage(messages: int) -> list[bytes]:
    """Return random bytes, batches cut at random places, and endlessly nested values."""
    source = random.Random(_SEED)
    batch = pack_batch(*every_event(), node_id=NODE)
    found = [b"", b"\x91" * _GARBAGE_BYTES]
    while len(found) < messages:
        found.append(source.randbytes(source.randrange(1, _GARBAGE_BYTES)))
        found.append(batch[: source.randrange(1, len(batch))])
    return found[:messages]


def _ask(path: Path, message: bytes) -> str:
    """Send a message and return the reason of its refusal."""
    with pynng.Req0(recv_timeout=_REPLY_MILLISECONDS, send_timeout=_REPLY_MILLISECONDS) as asker:
        asker.dial(f"ipc://{path}", block=True)
        asker.send(message)
        return _reply_decoder.decode(asker.recv()).error


def _talk_nonsense(path: Path) -> None:
    """Write random bytes where nng expects its own greeting."""
    source = random.Random(_SEED)
    for _ in range(5):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(path))
            connection.sendall(source.randbytes(_GARBAGE_BYTES))
