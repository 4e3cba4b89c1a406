"""Measures what telemetry costs a request in the node, against prometheus_client in one process.

The peer makes the same updates that the exporter's rules make of the events, so that both sides end
with the same metrics. It counts each token and observes each gap between two tokens as they are
made, as a server with metrics inside does. The node notes them in the request's account and reports
them several times a second. It packs batches later, in its carrier and off the path of requests;
that cost is shown separately where it is not included.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from exporter.metrics.catalogue.family import PREFIX, Family
from exporter.metrics.samples import read_samples
from node.requests.account import Account, Accounts
from node.requests.answer import Answer
from node.requests.request import InferenceRequest, Sampling
from node.telemetry.outbox import Outbox
from shared.events.api import HttpFinished
from shared.events.event import Event
from shared.events.node import NodeStateChanged
from shared.events.requests import InferenceFinished, LoadChanged, TokensGenerated
from shared.events.trace import TraceContext
from tests.bench.table import Row

Emit = Callable[[Event], None]
Emitter = Callable[[Emit, int], None]

_REQUESTS: Final = 50
"""Requests of one round, which is short, so that some rounds run undisturbed on a busy machine."""
_ROUNDS: Final = 100
_TOKENS: Final = 100
_FLUSH_TOKENS: Final = 20
"""Tokens between two flushes, for an engine of 100 tokens/s."""
_GAP_SECONDS: Final = 0.01
_TIMES: Final = [at * _GAP_SECONDS for at in range(_TOKENS)]
"""When each token is drawn. Reading the clock costs telemetry nothing: each token's deadline is
checked at that time as well."""
_MODEL: Final = "some-model"
_SECONDS: Final = 0.5
_REQUEST_ID: Final = "0af7651916cd43dd8448eb211c80319c"
_TRACE: Final = TraceContext(_REQUEST_ID, "b7ad6b7169203331", "00f067aa0ba902b7", True)
_AIM: Final = ">= 20"
_AIM_PACKED: Final = ">= 10"
_REQUEST: Final = InferenceRequest(
    model_id=_MODEL, prompt="", max_tokens=_TOKENS, sampling=Sampling(0, 1, 1, 1, 1), streamed=True
)


def measure() -> list[Row]:
    """Compare what one request costs on either side."""
    return trio.run(_measure)  # an account reads Trio's clock


async def _measure() -> list[Row]:
    finished, others = _collect(_emit_finished), _collect(_emit_others)
    tokens: list[Event] = [
        TokensGenerated(_MODEL, 1, (*_TIMES[:at][-1:], now)) for at, now in enumerate(_TIMES)
    ]
    answer = f"a request of {_TOKENS} tokens"
    return [
        *_compare("InferenceFinished, the event of a finished request", _emit_finished, finished),
        *_compare("the 7 events of a request without its tokens", _emit_request, finished + others),
        *_compare_packed(f"the tokens of {answer}", _emit_tokens, tokens),
        *_compare_packed(answer, _emit_answer, finished + others + tokens),
    ]


def _collect(emitter: Emitter) -> list[Event]:
    happened: list[Event] = []
    emitter(happened.append, 1)
    return happened


def _emit_finished(emit: Emit, requests: int) -> None:
    for _ in repeat(None, requests):
        emit(
            InferenceFinished(  # some by position, as in node.requests.account
                _MODEL,
                "ok",
                "length",
                _SECONDS,
                _SECONDS,
                _SECONDS,
                _SECONDS,
                _SECONDS,
                _TOKENS,
                0,
                _TOKENS,
                0,
                _REQUEST_ID,
                _TRACE,
                route="/v1/completions",
                client="key:2fd4e1c67a2d",
                operation="text_completion",
                reason=None,
                code="",
                ended_at=_SECONDS,
                local_seconds=_SECONDS,
                resumed=0,
            )
        )


def _emit_others(emit: Emit, requests: int) -> None:
    """Emit what the lane, the node's status and the API's edge report of one request."""
    for _ in repeat(None, requests):
        emit(LoadChanged(_MODEL, 1, 1, 0, 1))
        emit(LoadChanged(_MODEL, 1, 0, 1, 1))
        emit(NodeStateChanged("busy"))
        emit(LoadChanged(_MODEL, 0, 0, 0, 1))
        emit(NodeStateChanged("online"))
        emit(HttpFinished("/v1/completions", "POST", 200, _SECONDS))


def _emit_request(emit: Emit, requests: int) -> None:
    _emit_others(emit, requests)
    _emit_finished(emit, requests)


def _emit_tokens(emit: Emit, requests: int) -> None:
    accounts = Accounts(emit)
    for _ in repeat(None, requests):
        account = accounts.open(_REQUEST)
        account.begin(None)
        _draw(accounts, account)
        account.pause()


def _emit_answer(emit: Emit, requests: int) -> None:
    """Report whole requests through their accounts, which measure the phases as well."""
    accounts = Accounts(emit)
    answer = Answer(_REQUEST)
    for _ in repeat(None, requests):
        account = accounts.open(_REQUEST)
        account.begin(None)
        _draw(accounts, account)
        account.pause()
        account.close(("ok", "length"), answer, _TOKENS)
        _emit_others(emit, 1)


def _draw(accounts: Accounts, account: Account) -> None:
    draw = account.draw
    for start in range(0, _TOKENS, _FLUSH_TOKENS):
        for now in _TIMES[start : start + _FLUSH_TOKENS]:
            draw(now)
        accounts.report()


def _compare(what: str, emitter: Emitter, happened: Sequence[Event]) -> Iterator[Row]:
    emitted, packed, resolved, looked_up, moves = _time(emitter, happened)
    yield _row(f"{what}: against {moves} updates", emitted, resolved, _AIM)
    yield _row("  ... with .labels() for each", emitted, looked_up, _AIM)
    yield _row("  ... including packing for the carrier", packed, looked_up, "")


def _compare_packed(what: str, emitter: Emitter, happened: Sequence[Event]) -> Iterator[Row]:
    emitted, packed, resolved, looked_up, moves = _time(emitter, happened)
    yield _row(
        f"{what}, emitted and packed: against {moves} updates", packed, resolved, _AIM_PACKED
    )
    yield _row("  ... with .labels() for each", packed, looked_up, "")
    yield _row("  ... without packing", emitted, resolved, "")


def _time(emitter: Emitter, happened: Sequence[Event]) -> tuple[float, float, float, float, int]:
    client, node = _Client(happened), _Node(emitter)
    emitted, packed, resolved, looked_up = _time_rounds(
        node.emit, node.emit_and_pack, client.resolved, client.looked_up
    )
    return emitted, packed, resolved, looked_up, len(client.updates)


def _row(what: str, ours: float, theirs: float, aim: str) -> Row:
    return Row(what, _microseconds(ours), _microseconds(theirs), f"{theirs / ours:.1f}", aim)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def _time_rounds(*variants: Callable[[int], float]) -> list[float]:
    """Return the best seconds a request of each variant, because other load only slows it."""
    for variant in variants:
        variant(_REQUESTS)
    rounds = [[variant(_REQUESTS) for variant in variants] for _ in range(_ROUNDS)]
    return [min(column) / _REQUESTS for column in zip(*rounds, strict=True)]


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

    def __init__(self, happened: Sequence[Event]) -> None:
        registry = CollectorRegistry()
        metrics: dict[Family, Any] = {}
        self.updates: list[tuple[Callable[[float], None], float]] = []
        self._lookups: list[tuple[Any, tuple[str, ...], str, float]] = []
        for event in happened:
            for family, labels, moved in read_samples("measured", [event]):
                if family not in metrics:
                    metrics[family] = _metric(family, registry)
                method = _METHODS[family.kind]
                child = metrics[family].labels(*labels)
                for value in moved if isinstance(moved, list) else (moved,):
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
