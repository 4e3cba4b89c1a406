"""A batch counts as its events would one by one."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.cut import Cut, take_cut
from exporter.metrics.histogram import Histogram
from exporter.metrics.nodes import Session
from exporter.metrics.state import State
from shared.events.event import Event
from shared.events.requests import TokensGenerated
from tests.builders import every_event

_KINDS = [event for model_id in ("m", "other") for event in every_event(model_id)]
_TIMES = st.lists(st.sampled_from([0.0, 1.0, 1.001, 1.5, float("nan"), float("inf")]), max_size=5)
_NUMBERS = st.sampled_from([0, 1, 2, 7.5, -1, float("nan"), float("inf")])


@st.composite
def happened(draw: st.DrawFn) -> list[Event | None]:
    """Draw a batch: events of every kind, equal ones and invalid ones among them."""
    drawn: list[Event | None] = draw(st.lists(st.sampled_from([*_KINDS, None]), max_size=40))
    for at, event in enumerate(drawn):
        if isinstance(event, TokensGenerated):
            drawn[at] = TokensGenerated(event.model_id, 2, tuple(draw(_TIMES)))
        elif event is not None and draw(st.integers(0, 3)) == 0:
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


def _apply(*batches: list[Event | None]) -> tuple[Cut, State]:
    state = State()
    node = state.node("n1")
    session = node.sessions.setdefault("s1", Session("s1"))
    for batch in batches:
        state.apply(node, session, batch)
    return take_cut(state), state


@given(happened())
def test_batch_counts_as_its_events_one_by_one(batch: list[Event | None]) -> None:
    """How events are cut into batches changes no number, no bucket, no sum and no node."""
    together, state = _apply(batch)
    singly, other_state = _apply(*([event] for event in batch))
    assert (state.nodes, state.ended) == (other_state.nodes, other_state.ended)
    assert together.numbers == singly.numbers
    for family, series in singly.histograms.items():
        shown = together.histograms[family]
        assert {labels: (h.counts, h.sum, h.exemplars) for labels, h in series.items()} == {
            labels: (h.counts, h.sum, h.exemplars) for labels, h in shown.items()
        }


@given(
    st.lists(st.sampled_from([0, 0.5, 1, 1.5, 2, 3.25, 10, 1e6])), st.sampled_from([(), (1, 2, 10)])
)
def test_values_observed_together_count_as_one_by_one(
    values: list[float], bounds: tuple[float, ...]
) -> None:
    """Each value is counted in the first bucket whose bound it does not exceed."""
    together, singly = Histogram(bounds), Histogram(bounds)
    together.observe(values)
    for value in values:
        singly.observe([value])
    assert (together.counts, together.sum) == (singly.counts, singly.sum)
