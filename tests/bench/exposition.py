"""Measures how long a scrape takes while events arrive, and how long it delays them."""

import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pynng

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.api import HttpFinished, RpcFinished
from tests.bench.load import mixed_events, pack, send
from tests.bench.processes import NODE_ID, run_exporter
from tests.bench.scrape import Scrape, scrape
from tests.bench.table import Row
from tests.whole_node import MODELS, whole_node

_EVENTS_PER_SECOND: Final = 5000
_BATCH_EVENTS: Final = 500
_SCRAPES: Final = 200
_SCRAPE_PAUSE_SECONDS: Final = 0.02
_MANY_ROUTES: Final = 7160
"""Routes and methods, each with 7 series: 100,240 in all. They stay while their node is silent."""
_MANY_SCRAPES: Final = 9
_IDLE_SECONDS: Final = 0.3


def measure() -> list[Row]:
    """Measure scrapes under load, then a scrape of very many series."""
    return [*_under_load(), *_with_many_series()]


def _under_load() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, run_exporter(Path(name)) as exporter:
        ended = threading.Event()
        with ThreadPoolExecutor(1) as sender:
            sending = sender.submit(send, Path(name), _paced(ended))
            time.sleep(1)
            scrapes = []
            for _ in range(_SCRAPES):
                scrapes.append(scrape(exporter))
                time.sleep(_SCRAPE_PAUSE_SECONDS)
            ended.set()
            sending.result()
    seconds = sorted(one.seconds for one in scrapes)
    p99 = seconds[int(0.99 * len(seconds))]
    series = scrapes[-1].series
    yield Row(
        "2 models, 4 peers: all families",
        f"{series} series",
        "1,200",
        f"{series / 1200:.2f}",
        "<= 1",
    )
    what = f"  ... a scrape of them at {_EVENTS_PER_SECOND} events/s"
    yield Row(f"{what}, p99", _ms(p99), "30 ms", f"{p99 / 0.03:.2f}", "<= 1")
    yield Row("  ... median", _ms(statistics.median(seconds)), "", "")


def _paced(ended: threading.Event) -> Iterator[bytes]:
    """Send batches at a fixed rate until told to stop."""
    due = time.monotonic()
    for batch in pack([*whole_node(), *mixed_events(MODELS[0])], _BATCH_EVENTS, 10**9):
        if ended.is_set():
            return
        yield batch
        due += _BATCH_EVENTS / _EVENTS_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


def _with_many_series() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, run_exporter(Path(name)) as exporter:
        directory = Path(name)
        _fill(directory)
        idle = [_longest_exchange(directory, _pause) for _ in range(_MANY_SCRAPES)]
        scrapes: list[Scrape] = []
        waits = [
            _longest_exchange(directory, lambda: scrapes.append(scrape(exporter)))
            for _ in range(_MANY_SCRAPES)
        ]
    seconds = statistics.median(one.seconds for one in scrapes)
    series = min(one.series for one in scrapes)
    what = f"longest wait of a batch while {series} series are rendered ({_ms(seconds)})"
    # The median over the scrapes, so that one hiccup of the machine does not decide.
    longest = statistics.median(waits)
    yield Row(what, _ms(longest), "50 ms", f"{longest / 0.05:.2f}", "<= 1")
    yield Row(f"  ... the longest of {_MANY_SCRAPES} scrapes", _ms(max(waits)), "", "")
    for which, choose in (("median", statistics.median), ("longest", max)):
        yield Row(f"  ... while nothing is rendered, {which}", _ms(choose(idle)), "", "")


def _pause() -> None:
    time.sleep(_IDLE_SECONDS)


def _fill(runtime_dir: Path) -> None:
    outbox = Outbox(NODE_ID, "filler", 0.0)
    for number in range(_MANY_ROUTES):
        outbox.emit(HttpFinished(f"/route/{number}", "GET", 200, 0.1))
        outbox.emit(RpcFinished(f"Service/Method{number}", "ok", 0.1))
    send(runtime_dir, _drain(outbox))


def _drain(outbox: Outbox) -> Iterator[bytes]:
    while not outbox.empty:
        yield outbox.next_batch(0.0)
        outbox.acknowledge()


def _longest_exchange(runtime_dir: Path, meanwhile: Callable[[], None]) -> float:
    """Send small batches during `meanwhile`; return the longest time to a reply in seconds."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as asker:
        longest = asker.submit(_ask, runtime_dir, ended)
        meanwhile()
        ended.set()
        return longest.result()


def _ask(runtime_dir: Path, ended: threading.Event) -> float:
    longest = 0.0
    with pynng.Req0(send_timeout=5000, recv_timeout=5000) as socket:
        socket.dial(f"ipc://{runtime_dir / wire.SOCKET_NAME}", block=True)
        outbox = Outbox("asker", uuid.uuid4().hex, 0.0)
        while not ended.is_set():
            began = time.perf_counter()
            socket.send(outbox.next_batch(0.0))
            socket.recv()
            longest = max(longest, time.perf_counter() - began)
    return longest


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
