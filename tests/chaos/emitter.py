"""Emits events as a busy node does, through the node's own telemetry, and records the truth.

The truth is the number of events emitted by kind and dropped by reason. It is written to a file
before the events enter the outbox, so that it survives `kill -9` and is never less than what an
exporter can have received.
"""

import argparse
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Final

import trio

from node.settings import NodeSettings
from node.telemetry.carrier import open_carrier
from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.api import HttpFinished
from shared.events.engine import EngineProgressed
from shared.events.event import Event
from shared.events.models import ModelDescribed, ModelLoadFailed
from shared.events.node import NodeStarted, NodeStateChanged, ResourcesSampled
from shared.events.requests import InferenceFinished, LoadChanged, TokensGenerated
from shared.events.system import EventLoopLagged
from tests.guards import strict_guard

TICK_SECONDS: Final = 0.01
TRUTH_BYTES: Final = 2048
OVERSIZE_KIND: Final = "ModelLoadFailed"
"""The kind of the oversize events; the ordinary mix has none of it."""
_MODEL: Final = "some-model"
_TOKENS: Final = 10


class Truth:
    """Records what was emitted, in a file that is written before the events are emitted.

    Args:
        path: The file; another file beside it has a line for each second.
        session: The name of this run.
        outbox: Counts what it drops.
    """

    def __init__(self, path: Path, session: str, outbox: Outbox) -> None:
        self._session = session
        self._outbox = outbox
        self._kinds: Counter[str] = Counter()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._seconds = path.with_suffix(".seconds").open("a", buffering=1)

    def emit(self, happened: Iterable[Event]) -> None:
        """Record events, then emit them."""
        for event in self.note(happened):
            self._outbox.emit(event)

    def note(self, happened: Iterable[Event]) -> list[Event]:
        """Record events that the carrier is about to emit, and return them."""
        events_now = list(happened)
        self._kinds.update(type(event).__name__ for event in events_now)
        self.write()
        return events_now

    def write(self) -> str:
        """Update the file, and return its content."""
        truth = {
            "session": self._session,
            "kinds": self._kinds,
            "dropped": self._outbox._dropped,
        }
        text = json.dumps(truth)
        # One write of a fixed length, so that a reader or a kill never finds half of it.
        os.pwrite(self._descriptor, text.ljust(TRUTH_BYTES).encode(), 0)
        return text

    def write_second(self, longest_gap_seconds: float) -> None:
        """Add a line about the past second."""
        second = {
            "at": time.monotonic(),
            "emitted": self._kinds.total(),
            "longest_gap_seconds": longest_gap_seconds,
        }
        self._seconds.write(json.dumps(second) + "\n")

    def close(self) -> None:
        """Close the files."""
        os.close(self._descriptor)
        self._seconds.close()


def main() -> None:
    """Emit until SIGTERM, then send the goodbye and print the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--runtime-dir", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--oversize", type=int, default=0, help="oversize events, first of all")
    parser.add_argument("--padding", type=int, default=0, help="characters too many in some events")
    parser.add_argument("--routes", type=int, default=0, help="responses of as many routes, only")
    trio.run(_run, parser.parse_args())


async def _run(options: argparse.Namespace) -> None:
    settings = NodeSettings(node_id=options.node_id, runtime_dir=options.runtime_dir)
    session = secrets.token_hex(8)
    outbox = Outbox(settings.node_id, session, trio.current_time())
    truth = Truth(options.truth, session, outbox)
    source = _routes(options.routes) if options.routes else _mix(options.oversize, options.padding)

    def levels() -> list[Event]:
        return truth.note(_levels())

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            open_carrier(outbox, settings.socket_path, levels, strict_guard()),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_emit, truth, source, options.rate, name="emit")
            await anext(signals)
            nursery.cancel_scope.cancel()
    print(truth.write(), flush=True)
    truth.close()


async def _emit(truth: Truth, source: Iterator[Event], rate: float) -> None:
    """Emit the share of each tick; a late tick's share goes with the next. Runs until cancelled."""
    began = last = second = trio.current_time()
    done, longest_gap = 0, 0.0
    while True:
        now = trio.current_time()
        longest_gap = max(longest_gap, now - last)
        last = now
        due = int((now - began) * rate)
        truth.emit(islice(source, due - done))
        done = due
        if now - second >= 1:
            truth.write_second(longest_gap)
            second, longest_gap = now, 0.0
        await trio.sleep(TICK_SECONDS)


def _mix(oversize: int, padding: int) -> Iterator[Event]:
    """Yield a few oversize events, then the events of request after request."""
    too_long = "x" * (wire.EVENT_BYTES + 1)
    return chain(
        (ModelLoadFailed(too_long, 1.0) for _ in range(oversize)),
        cycle(_request(padding)),
    )


def _routes(count: int) -> Iterator[Event]:
    """Yield responses of as many routes, as from a node that records paths as routes."""
    return (HttpFinished(f"/{number}", "GET", 200, 0.1) for number in range(count))


def _request(padding: int) -> list[Event]:
    return [
        LoadChanged(_MODEL, 1, 1, 0, 1),
        LoadChanged(_MODEL, 1, 0, 1, 1),
        NodeStateChanged("busy"),
        *(TokensGenerated(_MODEL, 1) for _ in range(_TOKENS)),
        EngineProgressed(_MODEL + "x" * padding, 1.5e9),
        InferenceFinished(_MODEL, "ok", "stop", 2.0, 0.25, 0.5, 1.25, 0.75, 5, 2, _TOKENS, 0),
        LoadChanged(_MODEL, 0, 0, 0, 1),
        NodeStateChanged("online"),
        EventLoopLagged(0.002),
        HttpFinished("/v1/completions", "POST", 200, 2.0),
    ]


def _levels() -> list[Event]:
    return [
        # Without a URL: the emitter has no API for health checks.
        NodeStarted(1.5e9, "0.1.0", "3.11", "none", ""),
        NodeStateChanged("online"),
        ResourcesSampled(2.0, 2**30, 12, 8),
        ModelDescribed(_MODEL, "llama", "Q8_0", "none", 2**24, 8),
    ]


if __name__ == "__main__":
    main()
