"""Builds batches of the events of a real node in their real proportions."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pynng

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.event import Event
from shared.events.requests import InferenceFinished, TokensGenerated
from tests.bench.processes import NODE_ID
from tests.builders import every_event

MODEL_ID: Final = "demo"
_SEED: Final = 1
_SEND_MILLISECONDS: Final = 5000

_RECORDED: Final = {
    "EventLoopLagged": 63,
    "LoadChanged": 62,
    "NodeStateChanged": 42,
    "TokensGenerated": 42,
    "HttpFinished": 23,
    "InferenceFinished": 20,
    "ResourcesSampled": 8,
    "SystemSampled": 8,
    "EngineProgressed": 8,
    "PeersCounted": 8,
}
"""`exporter_events_total` by event after a run of the node with the demo model: 6 s with 20 chat
completions of up to 200 tokens, every second one streamed, without the events of the start. A model
with longer answers has more tokens per request and otherwise the same events."""
_TOKENS: Final = 72
"""Tokens of one event in that run."""
_GAP_SECONDS: Final = 0.0015


def mixed_events(model_id: str = MODEL_ID) -> list[Event]:
    """Return the events of such a run, in mixed order."""
    chance = random.Random(_SEED)
    kinds = {type(event).__name__: event for event in every_event(model_id)}
    kinds["TokensGenerated"] = tokens_event(chance, model_id)
    happened = [
        _vary(kinds[name], chance) for name, count in _RECORDED.items() for _ in range(count)
    ]
    chance.shuffle(happened)
    return happened


def tokens_event(
    chance: random.Random, model_id: str = MODEL_ID, tokens: int = _TOKENS
) -> TokensGenerated:
    """Return the tokens of one request and flush, with their times."""
    gaps = (chance.expovariate(1 / _GAP_SECONDS) for _ in range(tokens + 1))
    return TokensGenerated(model_id, tokens, tuple(itertools.accumulate(gaps)))


def pack(events: Sequence[Event], batch_events: int, batches: int) -> Iterator[bytes]:
    """Repeat the events for so many batches of one session.

    Args:
        events: Repeated as often as needed.
        batch_events: Events per batch; a batch must stay well below `shared.wire.BATCH_BYTES`.
        batches: The number of batches.
    """
    outbox = Outbox(NODE_ID, "session", 0.0)
    coming = itertools.cycle(events)
    for _ in range(batches):
        for event in itertools.islice(coming, batch_events):
            outbox.emit(event)
        yield outbox.next_batch(0.0)
        outbox.acknowledge()


def pack_backlog(events: Sequence[Event], count: int) -> Iterator[bytes]:
    """Repeat the events, and cut batches of them as a node does that is behind."""
    outbox = Outbox(NODE_ID, "session", 0.0)
    for event in itertools.islice(itertools.cycle(events), count):
        outbox.emit(event)
    while not outbox.empty:
        yield outbox.next_batch(0.0)
        outbox.acknowledge()


def send(runtime_dir: Path, batches: Iterable[bytes]) -> None:
    """Send to the exporter that listens there, one batch in flight. Blocks.

    Raises:
        pynng.Timeout: The exporter did not answer.
    """
    with pynng.Req0(send_timeout=_SEND_MILLISECONDS, recv_timeout=_SEND_MILLISECONDS) as socket:
        socket.dial(f"ipc://{runtime_dir / wire.SOCKET_NAME}", block=True)
        for batch in batches:
            socket.send(batch)
            socket.recv()


def _vary(event: Event, chance: random.Random) -> Event:
    """Return the event with its own seconds and request id: a node hardly repeats them."""
    changes: dict[str, float | str] = {
        name: chance.uniform(0.5, 1.5) * value
        for name in event.__struct_fields__
        if isinstance(value := getattr(event, name), float)
    }
    if isinstance(event, InferenceFinished):
        changes["request_id"] = f"chatcmpl-{chance.randbytes(12).hex()}"
    return msgspec.structs.replace(event, **changes)
