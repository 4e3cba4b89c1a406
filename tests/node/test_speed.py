"""The machine's speed is measured from its answers."""

import dataclasses

import msgspec
import pytest

from node.routing.speed import SpeedMeter
from shared.events.event import Event
from shared.events.models import ModelDescribed
from tests.builders import every_event, finished

SIZE = 2**24


@dataclasses.dataclass
class Telling:
    """A meter, and the events that passed it."""

    passed: list[Event] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = SpeedMeter(self.passed.append)
        self.meter.emit(ModelDescribed("m", "llama", "Q8_0", "e", SIZE, 8))

    def answer(self, tokens: int, seconds: float) -> float:
        ended = msgspec.structs.replace(finished(), generated_tokens=tokens, decode_seconds=seconds)
        self.meter.emit(ended)
        return self.meter.bytes_per_second


def test_speed_is_weights_read_per_second() -> None:
    """The speed is weights read per second; later answers count in part."""
    telling = Telling()
    assert telling.meter.bytes_per_second == 0
    assert telling.answer(tokens=101, seconds=2.0) == 50 * SIZE
    assert telling.answer(tokens=101, seconds=1.0) == pytest.approx((0.8 * 50 + 0.2 * 100) * SIZE)


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 0.0), (3, 1.0), (50, 0.0)])
def test_short_answer_says_nothing(tokens: int, seconds: float) -> None:
    """An answer of a few tokens or of no time is not measured."""
    assert Telling().answer(tokens, seconds) == 0


def test_every_event_passes() -> None:
    """The meter passes on every event."""
    telling = Telling()
    telling.passed.clear()
    for event in every_event():
        telling.meter.emit(event)
    assert telling.passed == every_event()
