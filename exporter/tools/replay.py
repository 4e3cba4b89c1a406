"""The subcommand `replay`: send a recorded journal to an exporter, as the nodes once did."""

import dataclasses
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import msgspec
import pynng

from exporter.errors import StartupError
from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.changes import BATCH, Change, apply_change, unpack_change
from exporter.journal.records import FormatError, LogReader, log_generations, log_path
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from exporter.web.exposition import Wanted, render
from shared import wire
from shared.settings.declaration import Topic, UsageError, argument, setting
from shared.settings.kinds import EXISTING, NOT_NEGATIVE

ABOUT: Final = """Send a recorded journal to an exporter, as the nodes once did.

FILES are logs (journal-N.log) or state directories, whose logs are sent in order to the exporter of
--runtime-dir. Best start one for it, with an empty --state-dir. --print needs none."""
_REPLY_SECONDS: Final = 10.0
_CONFLICT_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.05
_reply_decoder = msgspec.msgpack.Decoder(wire.Reply)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySettings(ExporterSettings):
    """The settings of `replay`; with `--print` the exporter's own settings apply too."""

    unused = frozenset(
        {
            *("node_id", "host", "state_dir", "log_level", "log_format"),
            *("metrics_port", "metrics_token_file", "web_config_file", "collectors"),
            *("engine_silence_seconds", "socket_group"),
            *("request_log", "request_log_mib", "otlp_endpoint", "trace_ratio"),
        }
    )

    files: tuple[Path, ...] = argument(EXISTING, "Logs or state directories.")
    speed: float = setting(
        Topic.OPTIONS, 1.0, NOT_NEGATIVE, "Multiple of the original speed; 0 for no pauses."
    )
    print: bool = setting(
        Topic.OPTIONS, False, bool, "Print the metrics that the journal yields instead."
    )

    def check(self) -> None:
        """Check also that there is something to replay.

        Raises:
            UsageError: A directory holds no log.
        """
        super().check()
        for path in self.files:
            if path.is_dir() and not log_generations(path):
                raise UsageError(f"{path} holds no journal-N.log")


def replay(settings: ReplaySettings) -> None:
    """Replay the journal and report on stderr.

    Raises:
        StartupError: A log is none, or no exporter takes what is in it.
    """
    changes = _read(_logs(settings.files))
    if settings.print:
        sys.stdout.write(_exposition(settings, changes))
    else:
        _send(settings, changes)


def _logs(files: Iterable[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            yield from (log_path(path, generation) for generation in log_generations(path))
        else:
            yield path


def _read(logs: Iterable[Path]) -> Iterator[Change]:
    """Yield the records of logs, which are left unchanged."""
    for path in logs:
        try:
            with path.open("rb", buffering=0) as file:
                reader = LogReader(path, file)
                for _, record in reader:
                    yield unpack_change(record)
                if left := path.stat().st_size - reader.good_bytes:
                    sys.stderr.write(f"{path}: the last {left} bytes are damaged\n")
        except (FormatError, OSError, struct.error) as error:
            raise StartupError(f"{path} cannot be replayed: {error}") from error


def _exposition(settings: ReplaySettings, changes: Iterable[Change]) -> str:
    """Count the changes as a starting exporter would."""
    state = State(settings.series_budget, settings.objectives, settings.buckets)
    ingest = Ingest(state, settings.node_timeout_seconds)
    for change in changes:
        apply_change(ingest, change)
    return render(take_cut(state), Wanted()).body.decode()


def _send(settings: ReplaySettings, changes: Iterable[Change]) -> None:
    began = time.monotonic()
    first_at = 0.0
    batches = events = 0
    with ExitStack() as stack:
        senders: dict[str, _Sender] = {}
        for kind, received_at, message in changes:
            accepted = decode_batch(message) if kind == BATCH else None
            if not isinstance(accepted, Accepted):
                continue  # derived by the exporter that recorded it
            first_at = first_at or received_at
            if settings.speed:
                due = began + (received_at - first_at) / settings.speed
                time.sleep(max(0.0, due - time.monotonic()))
            node_id = accepted.batch.node_id
            if node_id not in senders:
                senders[node_id] = stack.enter_context(_Sender(settings.socket_path))
            senders[node_id].send(accepted, message)
            batches += 1
            events += len(accepted.happened)
    seconds = time.monotonic() - began
    sys.stderr.write(
        f"replayed {batches} batches with {events} events of {len(senders)} nodes "
        f"in {seconds:.1f} s\n"
    )


class _Sender:
    """Send batches for one node, each session on its own connection, as a restarted node would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = ""
        self._socket: pynng.Req0 | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def send(self, accepted: Accepted, message: bytes) -> None:
        """Send a batch and wait until it is counted.

        Raises:
            StartupError: The exporter is not there, or refuses it.
        """
        node_id = accepted.batch.node_id
        try:
            error = self._exchange(self._connection(accepted.batch.session), message)
        except (pynng.NNGException, msgspec.DecodeError) as failure:
            reason = f"no exporter takes it on {self._path} ({failure}): start one, or --print"
            raise StartupError(reason) from failure
        if error == "conflict":
            raise StartupError(f"{node_id} is live there: replay into another exporter")
        if error:
            raise StartupError(f"the exporter refuses a batch of {node_id}: {error}")

    def _connection(self, session: str) -> pynng.Req0:
        if self._socket is not None and session == self._session:
            return self._socket
        if self._socket is not None:
            self._socket.close()
        milliseconds = int(_REPLY_SECONDS * 1000)
        self._socket = pynng.Req0(send_timeout=milliseconds, recv_timeout=milliseconds)
        self._socket.dial(f"ipc://{self._path}", block=True)
        self._session = session
        return self._socket

    @staticmethod
    def _exchange(socket: pynng.Req0, message: bytes) -> str:
        """Return why a batch was refused, or ""."""
        deadline = time.monotonic() + _CONFLICT_SECONDS
        while True:
            socket.send(message)
            reply = _reply_decoder.decode(socket.recv())
            # The exporter may not have noticed yet that the previous connection is closed.
            if reply.error != "conflict" or time.monotonic() > deadline:
                return reply.error
            time.sleep(_RETRY_SECONDS)
