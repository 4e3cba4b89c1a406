"""Measures what telemetry costs a request in the node, against prometheus_client in one process.

The peer makes the same updates that the exporter's rules make of the events, so that both sides end
with the same metrics. The node packs batches later, in its carrier and off the path of requests;
that cost is shown separately.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from exporter.metrics.catalogue import PREFIX, Family
from exporter.metrics.rules import RULES
from node.telemetry.outbox import Outbox
from shared import events
from shared.events import Event
from tests.bench.table import Row

Emit = Callable[[Event], None]
Emitter = Callable[[Emit, int], None]

_REQUESTS: Final = 200
"""Requests of one round: well below the outbox's bound, as in a node whose carrier keeps up."""
_ROUNDS: Final = 31
_TOKENS: Final = 100
_MODEL: Final = "some-model"
_SECONDS: Final = 0.5
_AIM: Final = ">= 20"


def measure() -> list[Row]:
    """Compare what one request costs on either side."""
    return [
        *_compare("InferenceFinished, the event of a finished request", _emit_finished, _AIM),
        *_compare("the 7 events of a request without its tokens", _emit_request, _AIM),
        *_compare("TokensGenerated, once per token", _emit_token),
        *_compare(f"a request of {_TOKENS} tokens, all events", _emit_answer),
    ]


def _emit_finished(emit: Emit, requests: int) -> None:
    for _ in repeat(None, requests):
        emit(
            events.InferenceFinished(
                model_id=_MODEL,
                status="ok",
                finish_reason="length",
                seconds=_SECONDS,
                queue_seconds=_SECONDS,
                prefill_seconds=_SECONDS,
                decode_seconds=_SECONDS,
                first_token_seconds=_SECONDS,
                prompt_tokens=_TOKENS,
                cached_tokens=0,
                generated_tokens=_TOKENS,
                discarded_tokens=0,
            )
        )


def _emit_request(emit: Emit, requests: int) -> None:
    """Emit the events of one request: from the lane, the node's status and the API's edge."""
    for _ in repeat(None, requests):
        emit(events.LoadChanged(_MODEL, 1, 1, 0, 1))
        emit(events.LoadChanged(_MODEL, 1, 0, 1, 1))
        emit(events.NodeStateChanged("busy"))
        _emit_finished(emit, 1)
        emit(events.LoadChanged(_MODEL, 0, 0, 0, 1))
        emit(events.NodeStateChanged("online"))
        emit(events.HttpFinished("/v1/completions", "POST", 200, _SECONDS))


def _emit_token(emit: Emit, requests: int) -> None:
    for _ in repeat(None, requests):
        emit(events.TokensGenerated(_MODEL, 1))


def _emit_answer(emit: Emit, requests: int) -> None:
    for _ in repeat(None, requests):
        _emit_request(emit, 1)
        _emit_token(emit, _TOKENS)


def _compare(what: str, emitter: Emitter, aim: str = "") -> Iterator[Row]:
    happened: list[Event] = []
    emitter(happened.append, 1)
    client = _Client(happened)
    emitted, packed, resolved, looked_up = _time_rounds(
        _Node(emitter).emit, _Node(emitter).emit_and_pack, client.resolved, client.looked_up
    )
    moves = f"{len(client.updates)} updates"
    yield _row(f"{what}: against {moves}", emitted, resolved, aim)
    yield _row("  ... with .labels() for each", emitted, looked_up, aim)
    yield _row("  ... including packing for the carrier", packed, looked_up, "")


def _row(what: str, ours: float, theirs: float, aim: str) -> Row:
    return Row(what, _microseconds(ours), _microseconds(theirs), f"{theirs / ours:.1f}", aim)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def _time_rounds(*variants: Callable[[int], float]) -> list[float]:
    """Return the median seconds a request of each variant; noise affects all of them alike."""
    for variant in variants:
        variant(_REQUESTS)
    rounds = [[variant(_REQUESTS) for variant in variants] for _ in range(_ROUNDS)]
    return [statistics.median(column) / _REQUESTS for column in zip(*rounds, strict=True)]


class _Node:
    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def emit(self, requests: int) -> float:
        """Time emitting into a new outbox, which is empty as after a collection."""
        outbox = Outbox("measured", "session", 0.0)
        began = time.perf_counter()
        self._emitter(outbox.emit, requests)
        return time.perf_counter() - began

    def emit_and_pack(self, requests: int) -> float:
        """Time emitting events and packing them into batches."""
        outbox = Outbox("measured", "session", 0.0)
        began = time.perf_counter()
        self._emitter(outbox.emit, requests)
        while not outbox.empty:
            outbox.next_batch(0.0)
            outbox.acknowledge()
        return time.perf_counter() - began


class _Client:
    """The metrics that the events move, kept by prometheus_client in this process."""

    def __init__(self, happened: list[Event]) -> None:
        registry = CollectorRegistry()
        metrics: dict[Family, Any] = {}
        self.updates: list[tuple[Callable[[float], None], float]] = []
        self._lookups: list[tuple[Any, tuple[str, ...], str, float]] = []
        for event in happened:
            for family, labels, value in RULES[type(event)]("measured", event):
                if family not in metrics:
                    metrics[family] = _metric(family, registry)
                method = _METHODS[family.kind]
                child = metrics[family].labels(*labels)
                self.updates.append((getattr(child, method), value))
                self._lookups.append((metrics[family], labels, method, value))

    def resolved(self, requests: int) -> float:
        """Time the updates of series that were looked up before."""
        began = time.perf_counter()
        for _ in repeat(None, requests):
            for move, value in self.updates:
                move(value)
        return time.perf_counter() - began

    def looked_up(self, requests: int) -> float:
        """Time the updates with a lookup by labels for each, as is usual."""
        began = time.perf_counter()
        for _ in repeat(None, requests):
            for metric, labels, method, value in self._lookups:
                getattr(metric.labels(*labels), method)(value)
        return time.perf_counter() - began


_METHODS: Final = {"counter": "inc", "gauge": "set", "histogram": "observe"}


def _metric(family: Family, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name = PREFIX + family.name
    match family.kind:
        case "counter":
            return Counter(name, family.help, family.labels, registry=registry)
        case "gauge":
            return Gauge(name, family.help, family.labels, registry=registry)
        case "histogram":
            buckets = family.buckets
            return Histogram(name, family.help, family.labels, registry=registry, buckets=buckets)
