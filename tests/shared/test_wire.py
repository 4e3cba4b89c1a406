"""The wire format: batches and replies are read as written, within their size limits."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import wire
from shared.events.every import AnyEvent
from shared.events.requests import TokensGenerated
from shared.events.system import EventLoopLagged

counts = st.integers(0, 2**63 - 1)


@given(
    count=st.integers(0, 40),
    sequence=counts,
    emitted=counts,
    dropped=st.dictionaries(st.text(max_size=12), counts, max_size=4),
    goodbye=st.booleans(),
)
def test_batch_is_read_back_the_same(
    count: int, sequence: int, emitted: int, dropped: dict[str, int], *, goodbye: bool
) -> None:
    """A batch is read as written, and its events can still be decoded."""
    happened = [TokensGenerated("m", number) for number in range(count)]
    packed = b"".join(map(msgspec.msgpack.encode, happened))
    raw = msgspec.Raw(wire.pack_events(count, packed))
    batch = wire.Batch(1, "n", "s", sequence, emitted, dropped, 0.5, goodbye, raw)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=wire.Batch)
    assert msgspec.structs.replace(again, events=raw) == msgspec.structs.replace(batch, events=raw)
    assert msgspec.msgpack.decode(again.events, type=list[AnyEvent]) == happened


def test_reply_is_read_back_the_same() -> None:
    """A reply is read as written."""
    reply = wire.Reply(1, 2**62, durable=True, levels_wanted=True, error="malformed")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=wire.Reply) == reply


def test_field_of_a_newer_reply_is_skipped() -> None:
    """An older node can read the reply of a newer exporter."""
    newer = msgspec.msgpack.encode([1, 7, False, True, "", "new"])
    assert msgspec.msgpack.decode(newer, type=wire.Reply).applied == 7


def test_packed_events_say_how_many_they_are() -> None:
    """A header that announces more events than follow is refused."""
    one = msgspec.msgpack.encode(EventLoopLagged(0.5))
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(wire.pack_events(2, one))
    assert msgspec.msgpack.decode(wire.pack_events(0, b"")) == []


def test_batch_stays_below_the_limit_of_a_message() -> None:
    """A full batch and the largest event beside it fit into a message.

    Above the limit nng closes the connection silently and the sender retries for ever.
    """
    assert 2 * (wire.BATCH_BYTES + wire.EVENT_BYTES) < wire.MESSAGE_BYTES


@pytest.mark.parametrize("count", [0, 1, 15, 16, 0xFFFF, 0x10000])
def test_array_is_read_without_its_header(count: int) -> None:
    """The content of an array is its elements, whatever the size of its header."""
    elements = [7] * count
    assert wire.array_content(msgspec.msgpack.encode(elements)) == bytes(elements)
