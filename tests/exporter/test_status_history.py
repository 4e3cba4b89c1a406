"""The last minutes in memory: speeds, percentiles, sparklines, and their bounds."""

import tracemalloc
from typing import Final

import msgspec
import pytest

from exporter.metrics.nodes import Session
from exporter.metrics.state import State
from exporter.status.history import (
    HISTORY_BYTES,
    MODELS_KEPT,
    NODES_KEPT,
    SPARKLINE_STEPS,
    STEP_SECONDS,
    WINDOW_SECONDS,
    History,
    per_second,
)
from exporter.status.quantile import quantile
from shared.events.event import Event
from shared.events.models import ModelDescribed
from shared.events.node import NodeStateChanged
from shared.events.requests import TokensGenerated
from tests.builders import finished

MODEL: Final = ("n1", "m")
BOUNDS: Final = (0.1, 1.0, 10.0)
DAY_SECONDS: Final = 86_400
ONE_MODEL_BYTES: Final = 100 * 1024
"""As docs/status.md states."""


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0, 0, 0, 0), None),
        (0.5, (4, 0, 0, 0), 0.05),
        (0.5, (2, 2, 0, 0), 0.1),
        (0.75, (2, 2, 0, 0), 0.55),
        (0.95, (0, 0, 20, 0), 9.55),
        (0.99, (0, 0, 0, 5), 10.0),
        (1.0, (1, 0, 1, 0), 10.0),
    ],
)
def test_quantile_is_that_of_prometheus(
    share: float, counts: tuple[int, ...], expected: float | None
) -> None:
    """Observations are spread evenly in their bucket; those past the bounds count as the last."""
    assert quantile(share, BOUNDS, counts) == pytest.approx(expected)


class Sampled:
    """A state with nodes that are up, and its history."""

    def __init__(self) -> None:
        self.state = State()
        self.history = History(self.state)

    def happen(self, *happened: Event, node_id: str = "n1") -> None:
        """Apply events of a node."""
        node = self.state.node(node_id)
        node.up = True
        self.state.apply(node, Session("s1"), happened)

    def describe(self, model_id: str = "m", node_id: str = "n1") -> None:
        """Load a model."""
        described = ModelDescribed(model_id, "llama", "Q8_0", "ctransformers", 2**24, 8)
        self.happen(described, node_id=node_id)


def test_speed_is_that_of_the_last_seconds() -> None:
    """Tokens per second count since the newest sample that is old enough, not since the start."""
    sampled = Sampled()
    sampled.describe()
    sampled.happen(TokensGenerated("m", 1000))
    sampled.history.sample(0.0)
    sampled.happen(TokensGenerated("m", 50))
    sampled.history.sample(5.0)
    sampled.happen(TokensGenerated("m", 30))
    assert per_second(sampled.history.growth([MODEL], 5.0, 8.0)) == 80 / 8
    assert per_second(sampled.history.growth([MODEL], 3.0, 8.0)) == 30 / 3
    assert per_second(sampled.history.growth([("n1", "other")], 5.0, 8.0)) is None


def test_counts_before_the_window_are_not_shown() -> None:
    """Requests count for five minutes, and those of an earlier run of the exporter not at all."""
    sampled = Sampled()
    sampled.describe()
    sampled.happen(*[finished()] * 7)  # as if recovered
    now = 0.0
    sampled.history.sample(now)
    sampled.happen(finished())
    while now < WINDOW_SECONDS:
        now += STEP_SECONDS
        assert sampled.history.growth([MODEL], WINDOW_SECONDS, now).ended["ok"] == 1
        sampled.history.sample(now)
    now += STEP_SECONDS
    sampled.history.sample(now)
    assert sampled.history.growth([MODEL], WINDOW_SECONDS, now).ended["ok"] == 0


def test_models_of_a_node_add_up() -> None:
    """The growth of several models is their sum, percentiles included."""
    sampled = Sampled()
    sampled.describe("a")
    sampled.describe("b")
    sampled.history.sample(0.0)
    sampled.happen(TokensGenerated("a", 5), finished("a"))
    sampled.happen(TokensGenerated("b", 7), finished("b"))
    growth = sampled.history.growth([("n1", "a"), ("n1", "b")], WINDOW_SECONDS, 4.0)
    assert (growth.tokens, growth.ended["ok"], growth.failed) == (12, 2, 0)
    assert sampled.history.first_token(growth, 0.5) == pytest.approx(0.75)  # within .5 and 1


def test_sparkline_has_a_gap_while_the_node_is_gone() -> None:
    """What was not observed is None, never 0; the line goes on when the node is back."""
    sampled = Sampled()
    sampled.describe()
    node = sampled.state.nodes["n1"]
    for at, up in enumerate((True, True, False, True)):
        node.up = up
        sampled.history.sample(at * STEP_SECONDS)
    assert list(sampled.history.sparklines("n1").tokens_per_second) == [None, 0, None, 0]
    assert list(sampled.history.sparklines("n1").queued) == [0, 0, None, 0]
    assert list(sampled.history.sparklines("unknown").queued) == []


def test_failures_are_those_of_each_step() -> None:
    """A failed request is in one point of the sparkline, a rejected one in none."""
    sampled = Sampled()
    sampled.describe()
    sampled.history.sample(0.0)
    failed = msgspec.structs.replace(finished(), status="error")
    rejected = msgspec.structs.replace(finished(), status="rejected")
    sampled.happen(failed, failed, rejected)
    sampled.history.sample(5.0)
    sampled.history.sample(10.0)
    assert list(sampled.history.sparklines("n1").failed) == [0, 2, 0]


@pytest.mark.parametrize(
    ("nodes", "models", "seconds"), [(1, 1, DAY_SECONDS), (NODES_KEPT + 4, MODELS_KEPT + 4, 1000)]
)
def test_history_stays_small(nodes: int, models: int, seconds: int) -> None:
    """A day of one model, and as many nodes and models as are kept, stay below the stated size."""
    sampled = Sampled()
    for number in range(nodes):
        sampled.happen(NodeStateChanged("online"), node_id=f"n{number}")
    for number in range(models):
        sampled.describe(f"m{number}", "n0")
    steps = int(seconds / STEP_SECONDS)
    for step in range(steps):
        if step == steps - SPARKLINE_STEPS - 5:
            tracemalloc.start()  # before anything that is still held at the end
        sampled.happen(TokensGenerated(f"m{step % models}", 1 + step), node_id="n0")
        sampled.history.sample(step * STEP_SECONDS)
    held = tracemalloc.take_snapshot()
    tracemalloc.stop()
    kept = held.filter_traces([tracemalloc.Filter(True, "*/exporter/status/history.py")])
    size = sum(statistic.size for statistic in kept.statistics("filename"))
    assert 0 < size < (HISTORY_BYTES if models > 1 else ONE_MODEL_BYTES)
    assert len(sampled.history.sparklines("n0").queued) == SPARKLINE_STEPS


def test_first_request_of_a_new_model_counts() -> None:
    """A model that appears between two samples began at 0; one of an earlier start did not."""
    sampled = Sampled()
    sampled.happen(finished("old"))  # as if recovered
    sampled.history.sample(0.0)
    for model_id in ("old", "new"):
        sampled.describe(model_id)
    sampled.happen(finished("new"))
    sampled.history.sample(STEP_SECONDS)
    grown = {
        model_id: sampled.history.growth([("n1", model_id)], WINDOW_SECONDS, 6.0).ended["ok"]
        for model_id in ("old", "new")
    }
    assert grown == {"old": 0, "new": 1}
