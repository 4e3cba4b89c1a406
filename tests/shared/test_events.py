"""The set of events is complete, and old and new versions understand each other."""

from typing import Any, get_args

import msgspec
import pytest

from exporter.metrics.rules.every import GROUP_RULES, RULES
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.events.requests import InferenceFinished
from shared.events.system import EventLoopLagged
from tests.builders import every_event, finished

EVENT_BYTES_AT_MOST = 256
"""Limit for every event, so that a request costs little on the wire."""

decoder = msgspec.msgpack.Decoder(AnyEvent)
every = pytest.mark.parametrize("event", every_event(), ids=lambda e: type(e).__name__)


def as_list(event: Event) -> list[Any]:
    written: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(event))
    return written


def test_any_event_names_every_event() -> None:
    """The decoder knows every kind of event."""
    assert set(get_args(AnyEvent)) == set(Event.__subclasses__())


def test_builders_build_every_event() -> None:
    """`every_event` has one event of each kind."""
    assert {type(event) for event in every_event()} == set(Event.__subclasses__())


def test_tags_are_unique() -> None:
    """No two events share a tag."""
    tags = [kind.__struct_config__.tag for kind in Event.__subclasses__()]
    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, int) for tag in tags)


def test_every_event_has_a_rule() -> None:
    """The exporter has one rule for each kind of event."""
    assert sorted([*RULES, *GROUP_RULES], key=repr) == sorted(Event.__subclasses__(), key=repr)


@every
def test_event_is_read_back_the_same(event: Event) -> None:
    """An event is the same after encoding and decoding."""
    assert decoder.decode(msgspec.msgpack.encode(event)) == event


@every
def test_event_is_small(event: Event) -> None:
    """An event is an array of a few dozen bytes that the garbage collector does not track."""
    assert len(msgspec.msgpack.encode(event)) <= EVENT_BYTES_AT_MOST
    config = type(event).__struct_config__
    assert config.array_like
    assert config.frozen
    assert not config.gc


@every
def test_field_of_a_newer_writer_is_skipped(event: Event) -> None:
    """An older reader ignores a field that a newer writer added."""
    assert decoder.decode(msgspec.msgpack.encode([*as_list(event), "new"])) == event


@every
def test_missing_field_is_refused(event: Event) -> None:
    """A field without a default is required."""
    needed = len(as_list(event)) - len(type(event).__struct_defaults__)
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode(as_list(event)[: needed - 1]))


def test_field_that_an_older_writer_left_out_is_filled_in() -> None:
    """A newer reader uses the default of a field that an older writer does not send."""

    class Grown(msgspec.Struct, frozen=True, array_like=True, tag=5):
        seconds: float
        place: str = "loop"

    older = msgspec.msgpack.encode(EventLoopLagged(0.5))
    assert msgspec.msgpack.decode(older, type=Grown) == Grown(0.5, "loop")


def test_end_of_a_request_from_an_older_node_is_read() -> None:
    """A node that knows neither request ids nor traces still ends its requests."""
    older = as_list(finished())[: 1 + len(InferenceFinished.__struct_fields__)]
    needed = len(older) - len(InferenceFinished.__struct_defaults__)
    read = decoder.decode(msgspec.msgpack.encode(older[:needed]))
    assert read == finished()
    assert (read.trace, read.reason, read.ended_at) == (None, None, 0)


def test_unknown_tag_is_refused() -> None:
    """An unknown kind of event is not decoded as another kind."""
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode([999, 1.0]))


def test_optional_field_may_be_none() -> None:
    """A request without a first token has no time to the first token."""
    event = msgspec.structs.replace(finished(), first_token_seconds=None, finish_reason=None)
    assert decoder.decode(msgspec.msgpack.encode(event)) == event


def test_word_outside_the_vocabulary_is_refused() -> None:
    """Statuses and reasons are closed sets, because they become labels."""
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode([2, "sleeping"]))


def test_event_cannot_be_changed() -> None:
    """An event is immutable."""
    event = EventLoopLagged(0.5)
    with pytest.raises(AttributeError):
        event.seconds = 1.0  # type: ignore[misc]
