"""Remembers the last minutes of nodes and models, for speeds, percentiles and sparklines.

All of it is in memory and begins empty at each start of the exporter. Numbers of models, nodes and
samples are bounded; with the default buckets all stays below `HISTORY_BYTES`.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import add, sub
from typing import Final, NamedTuple, get_args

from exporter.metrics.catalogue.models import MODEL_LOAD_PROGRESS
from exporter.metrics.catalogue.requests import FIRST_TOKEN, QUEUE_DEPTH, REQUESTS, TOKENS_GENERATED
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Labels
from exporter.metrics.state import State
from exporter.status.quantile import quantile
from shared.events.requests import RequestStatus

STEP_SECONDS: Final = 5.0
"""Between two samples."""
SPARKLINE_SECONDS: Final = 900.0
WINDOW_SECONDS: Final = 300.0
"""Counts and percentiles are those of this time."""
MODELS_KEPT: Final = 32
NODES_KEPT: Final = 16
HISTORY_BYTES: Final = 2**20
"""What the history of so many models and nodes takes at most."""
SPARKLINE_STEPS: Final = int(SPARKLINE_SECONDS / STEP_SECONDS)
_WINDOW_STEPS: Final = int(WINDOW_SECONDS / STEP_SECONDS)
_PERCENTILE_SECONDS: Final = 60.0
"""Each point of a percentile's sparkline covers this time."""
_STATUSES: Final[tuple[RequestStatus, ...]] = get_args(RequestStatus)
_FAILED: Final = ("error", "timeout")
_FIRST_BUCKET: Final = 1 + len(_STATUSES)
"""In a row of totals: tokens, ended requests by status, buckets of the first token."""


class Mark(NamedTuple):
    """A model's running totals at one time."""

    at: float
    """On the exporter's monotonic clock."""
    totals: "array[float]"


@dataclass(frozen=True)
class Growth:
    """By how much the totals of some models grew."""

    seconds: float
    totals: Sequence[float]

    @property
    def tokens(self) -> float:
        """Tokens generated."""
        return self.totals[0]

    @property
    def ended(self) -> dict[RequestStatus, int]:
        """Requests that ended, by status."""
        counts = map(int, self.totals[1:_FIRST_BUCKET])
        return dict(zip(_STATUSES, counts, strict=True))

    @property
    def failed(self) -> int:
        """Requests that ended with an error or a timeout."""
        return sum(self.ended[status] for status in _FAILED)

    @property
    def first_tokens(self) -> Sequence[float]:
        """Requests by the bucket of their time to the first token."""
        return self.totals[_FIRST_BUCKET:]


class Sparklines:
    """The last 15 minutes of one node, oldest first; None where it was not up."""

    def __init__(self) -> None:
        self.tokens_per_second = _points()
        self.first_token_p95_seconds = _points()
        """Each over a minute; None without a request in it."""
        self.queued = _points()
        self.failed = _points()
        """Requests that failed in each step."""


class History:
    """The last minutes of a state's nodes and models.

    Args:
        state: What is sampled.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._bounds = state.new_histogram(FIRST_TOKEN).bounds
        self._models: dict[Labels, deque[Mark]] = {}
        self._nodes: dict[str, Sparklines] = {}
        self._sampled_at: float | None = None
        self._counted_before: set[Labels] = set()
        """Models whose totals at the first sample are older than this history."""

    def sample(self, now: float) -> None:
        """Take one sample. Nodes and models past the bounds have no history."""
        models = models_by_node(self._state)
        self._mark_nodes(models, now)
        every = [(node_id, model_id) for node_id, ids in models.items() for model_id in ids]
        kept = list(dict.fromkeys([*every, *self._models]))[:MODELS_KEPT]
        if self._sampled_at is None:
            self._counted_before = {labels[:2] for labels in self._state.values(REQUESTS)}
        self._models = {key: self._models.get(key) or self._new_marks(key) for key in kept}
        self._sampled_at = now
        for key, marks in self._models.items():
            marks.append(Mark(now, self._totals(key)))

    def sparklines(self, node_id: str) -> Sparklines:
        """Return a node's sparklines, empty if there are none."""
        return self._nodes.get(node_id) or Sparklines()

    def growth(self, models: Iterable[Labels], seconds: float, now: float) -> Growth:
        """Return how much models grew together in about the last `seconds`, or since their start.

        Args:
            models: Each a node and its model.
            seconds: The time wanted; at most `WINDOW_SECONDS`.
            now: The time on the clock of `sample`.
        """
        grown: Sequence[float] = [0.0] * (_FIRST_BUCKET + len(self._bounds) + 1)
        longest = 0.0
        for key in models:
            if marks := self._models.get(key):
                mark = _mark_before(marks, now - seconds)
                longest = max(longest, now - mark.at)
                grown = list(map(add, grown, map(sub, self._totals(key), mark.totals)))
        return Growth(longest, grown)

    def first_token(self, growth: Growth, share: float) -> float | None:
        """Return a percentile of the time to the first token in seconds; None without requests."""
        return quantile(share, self._bounds, growth.first_tokens)

    def _mark_nodes(self, models: dict[str, list[str]], now: float) -> None:
        kept = list(self._state.nodes)[:NODES_KEPT]
        self._nodes = {node_id: self._nodes.get(node_id) or Sparklines() for node_id in kept}
        for node_id, lines in self._nodes.items():
            keys = [(node_id, model_id) for model_id in models.get(node_id, ())]
            up = self._state.nodes[node_id].up
            step = self.growth(keys, STEP_SECONDS / 2, now)
            minute = self.growth(keys, _PERCENTILE_SECONDS, now)
            queue = self._state.values(QUEUE_DEPTH)
            lines.tokens_per_second.append(per_second(step) if up else None)
            lines.first_token_p95_seconds.append(self.first_token(minute, 0.95) if up else None)
            lines.queued.append(sum(queue.get(key, 0) for key in keys) if up else None)
            lines.failed.append(step.failed if up else None)

    def _new_marks(self, key: Labels) -> deque[Mark]:
        """Return the marks of a new model, which began at 0 if it was not counted before."""
        marks: deque[Mark] = deque(maxlen=_WINDOW_STEPS + 1)
        if self._sampled_at is not None and key not in self._counted_before:
            zeros = array("d", [0.0] * (_FIRST_BUCKET + len(self._bounds) + 1))
            marks.append(Mark(self._sampled_at, zeros))
        return marks

    def _totals(self, key: Labels) -> "array[float]":
        requests = self._state.values(REQUESTS)
        histogram = self._state.histograms(FIRST_TOKEN).get(key)
        return array(
            "d",
            chain(
                (self._state.values(TOKENS_GENERATED).get(key, 0),),
                (requests.get((*key, status), 0) for status in _STATUSES),
                histogram.counts if histogram else [0] * (len(self._bounds) + 1),
            ),
        )


def per_second(growth: Growth) -> float | None:
    """Return the tokens per second of a growth; None while no time has passed."""
    return growth.tokens / growth.seconds if growth.seconds else None


def models_by_node(state: State) -> dict[str, list[str]]:
    """Return the models that each node has: loaded, loading, or known with a queue."""
    found: dict[str, set[str]] = {
        node.node_id: set(map(clean_label, node.models)) for node in state.nodes.values()
    }
    for family in (QUEUE_DEPTH, MODEL_LOAD_PROGRESS):
        for labels in state.values(family):
            found.setdefault(labels[0], set()).add(labels[1])
    return {node_id: sorted(models) for node_id, models in found.items()}


def _mark_before(marks: deque[Mark], at: float) -> Mark:
    """Return the newest mark that is not younger, or else the oldest mark."""
    return next((mark for mark in reversed(marks) if mark.at <= at), marks[0])


def _points() -> deque[float | None]:
    return deque(maxlen=SPARKLINE_STEPS)
