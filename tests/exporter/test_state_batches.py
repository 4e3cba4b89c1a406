"""A batch counts as its events would one by one."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.cut import Cut, take_cut
from exporter.metrics.nodes import Session
from exporter.metrics.state import State
from shared.events import Event
from tests.builders import every_event

_KINDS = [event for model_id in ("m", "other") for event in every_event(model_id)]
_NUMBERS = st.sampled_from([0, 1, 2, 7.5, -1, float("nan"), float("inf")])


@st.composite
def happened(draw: st.DrawFn) -> list[Event | None]:
    """Draw a batch: events of every kind, equal ones and invalid ones among them."""
    drawn: list[Event | None] = draw(st.lists(st.sampled_from([*_KINDS, None]), max_size=40))
    for at, event in enumerate(drawn):
        if event is not None and draw(st.integers(0, 3)) == 0:
            drawn[at] = _with_number(event, draw(_NUMBERS))
    return drawn


def _with_number(event: Event, number: float) -> Event:
    """Replace the numbers of an event; whole ones stay whole."""
    changes: dict[str, Any] = {}
    for name in event.__struct_fields__:
        held = getattr(event, name)
        if isinstance(held, float):
            changes[name] = number
        elif isinstance(held, int) and not isinstance(held, bool) and abs(number) < 10:
            changes[name] = int(number)
    return msgspec.structs.replace(event, **changes)


def _apply(*batches: list[Event | None]) -> Cut:
    state = State()
    node = state.node("n1")
    session = node.sessions.setdefault("s1", Session("s1"))
    for batch in batches:
        state.apply(node, session, batch)
    return take_cut(state)


@given(happened())
def test_batch_counts_as_its_events_one_by_one(batch: list[Event | None]) -> None:
    """How events are cut into batches changes no number, no bucket and no sum."""
    together, singly = _apply(batch), _apply(*([event] for event in batch))
    assert together.numbers == singly.numbers
    for family, series in singly.histograms.items():
        shown = together.histograms[family]
        assert {labels: (h.counts, h.sum, h.exemplars) for labels, h in series.items()} == {
            labels: (h.counts, h.sum, h.exemplars) for labels, h in shown.items()
        }
