"""The subcommand `tail`: show events as they arrive at a running exporter."""

import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec
import pynng
import trio

from exporter.errors import StartupError
from exporter.ingest.batches import Accepted, decode_batch
from exporter.ingest.feed import FEED_HEADER, FEED_NAME
from exporter.metrics.labels import clean_label
from shared import streams, wire
from shared.events.every import AnyEvent
from shared.runtime.signals import stop_signals
from shared.settings.base import Settings
from shared.settings.declaration import Topic, UsageError, setting
from shared.settings.kinds import COUNT_OR_NONE

ABOUT: Final = """Show events as they arrive at a running exporter.

Attaches to the exporter of --runtime-dir, which it does not slow down. Events that arrive too fast
for this reader are skipped and their number is shown."""
_KINDS: Final = frozenset(kind.__name__ for kind in get_args(AnyEvent))
_QUEUED: Final = 64


class _Names(click.ParamType[frozenset[str]]):
    name = "name,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[str]:
        del param, ctx
        return value if isinstance(value, frozenset) else frozenset(filter(None, value.split(",")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TailSettings(Settings):
    """The settings of `tail`."""

    unused = frozenset({"node_id", "host", "state_dir", "log_level", "log_format"})

    nodes: frozenset[str] = setting(
        Topic.OPTIONS, frozenset(), _Names(), "Nodes to show.", shown="all"
    )
    events: frozenset[str] = setting(
        Topic.OPTIONS, frozenset(), _Names(), "Kinds of events to show.", shown="all"
    )
    json: bool = setting(Topic.OPTIONS, False, bool, "Write each event as one line of JSON.")
    count: int = setting(
        Topic.OPTIONS, 0, COUNT_OR_NONE, "Events after which to end.", shown="never"
    )

    def check(self) -> None:
        """Check also that the named events exist.

        Raises:
            UsageError: The settings do not go together.
        """
        super().check()
        if unknown := sorted(self.events - _KINDS):
            known = ", ".join(sorted(_KINDS))
            raise UsageError(f"--events: there is no {', '.join(unknown)}; there are {known}")


@dataclasses.dataclass(frozen=True)
class Shown:
    """One event, or a batch's goodbye, as displayed."""

    at: float
    """Unix time at which it was read."""
    node_id: str
    sequence: int
    kind: str
    fields: dict[str, Any]


def tail(settings: TailSettings) -> None:
    """Show events until SIGTERM, SIGINT, SIGHUP, the end of the output or the number given.

    Raises:
        StartupError: No exporter listens there (in a group).
    """
    trio.run(_tail, settings)


async def _tail(settings: TailSettings) -> None:
    path = settings.runtime_dir / FEED_NAME
    with trio.open_signal_receiver(*stop_signals()) as signals, _attach(path) as feed:
        sys.stderr.write(f"attached to {path}\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show_all, feed, settings, nursery.cancel_scope, name="tail")
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _show_all(feed: pynng.Sub0, settings: TailSettings, done: trio.CancelScope) -> None:
    reader = Reader()
    left = settings.count or sys.maxsize
    while True:
        lost, batch = reader.read(await feed.arecv())
        if lost:
            _write(_lost_line(lost, as_json=settings.json))
        for shown in batch:
            if _is_wanted(shown, settings):
                _write(as_json(shown) if settings.json else as_text(shown))
                left -= 1
                if left == 0:
                    done.cancel()
                    return


class Reader:
    """Determine from the feed which events are new and how many are missing."""

    def __init__(self) -> None:
        self._number = 0
        self._seen: dict[str, tuple[str, int]] = {}
        """Session and last displayed sequence number of each node."""

    def read(self, message: bytes) -> tuple[int, list[Shown]]:
        """Return how many batches were skipped before a message, and its events."""
        (number,) = FEED_HEADER.unpack_from(message)
        # A smaller number comes from a restarted exporter.
        lost = number - self._number - 1 if 0 < self._number < number else 0
        self._number = number
        accepted = decode_batch(message[FEED_HEADER.size :])
        return lost, list(self._fresh(accepted)) if isinstance(accepted, Accepted) else []

    def _fresh(self, accepted: Accepted) -> Iterator[Shown]:
        batch, now = accepted.batch, time.time()
        session, seen = self._seen.get(batch.node_id, ("", 0))
        seen = seen if session == batch.session else 0
        for sequence, event in enumerate(accepted.happened, batch.first_sequence):
            if sequence > seen:
                kind = "unknown" if event is None else type(event).__name__
                fields = {} if event is None else msgspec.structs.asdict(event)
                yield Shown(now, batch.node_id, sequence, kind, fields)
        last = batch.first_sequence + len(accepted.happened) - 1
        self._seen[batch.node_id] = batch.session, max(seen, last)
        if batch.goodbye:
            yield Shown(now, batch.node_id, last, "goodbye", {})


def as_text(shown: Shown) -> str:
    """Format an event for people: time, node, number, kind, fields."""
    clock = time.strftime("%H:%M:%S", time.localtime(shown.at)) + f"{shown.at % 1:.3f}"[1:]
    fields = "".join(f" {name}={_word(value)}" for name, value in shown.fields.items())
    return f"{clock} {shown.node_id} {shown.sequence} {shown.kind}{fields}"


def as_json(shown: Shown) -> str:
    """Format an event for programs: one object."""
    written = {
        "time": shown.at,
        "node_id": shown.node_id,
        "sequence": shown.sequence,
        "event": shown.kind,
        "fields": shown.fields,
    }
    return msgspec.json.encode(written).decode()


def _word(value: object) -> str:
    if isinstance(value, str):
        cleaned = clean_label(value)
        return cleaned if cleaned and " " not in cleaned else f'"{cleaned}"'
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lost_line(batches: int, *, as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode({"lost_batches": batches}).decode()
    return f"-- {batches} batches were left out: they came too fast for this reader"


def _is_wanted(shown: Shown, settings: TailSettings) -> bool:
    if settings.nodes and shown.node_id not in settings.nodes:
        return False
    return not settings.events or shown.kind in settings.events


def _write(line: str) -> None:
    # Flush each line: a reader of a pipe wants to see what happens now.
    streams.write(line + "\n")


def _attach(path: Path) -> pynng.Sub0:
    feed = pynng.Sub0(
        recv_buffer_size=_QUEUED,
        recv_max_size=wire.MESSAGE_BYTES + FEED_HEADER.size,
    )
    feed.subscribe(b"")
    try:
        feed.dial(f"ipc://{path}", block=True)
    except pynng.NNGException as error:
        feed.close()
        message = f"no exporter listens on {path} ({error}): start one, or name its --runtime-dir"
        raise StartupError(message) from error
    return feed
