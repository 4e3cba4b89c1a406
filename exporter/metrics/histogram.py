"""A histogram: counts by bucket, their sum, and an example request of each bucket."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class Exemplar(NamedTuple):
    """One request that fell into a bucket."""

    request_id: str
    value: float
    at: float
    """Unix time at which the exporter received it."""
    trace_id: str = ""
    """Empty if its trace is not recorded."""


class Histogram:
    """Counts by bucket, the last one for everything above the highest bound, and the sum.

    Args:
        bounds: Upper bounds of the buckets but the last.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The newest request of each bucket that had an id."""

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Count values, at a fraction of the cost of one by one: each bucket takes one step."""
        ordered = sorted(values)
        self.sum += sum(ordered)
        counted = 0
        for bucket, bound in enumerate(self.bounds):
            up_to = bisect_right(ordered, bound, counted)
            self.counts[bucket] += up_to - counted
            counted = up_to
            if counted == len(ordered):
                return
        self.counts[-1] += len(ordered) - counted

    def remember(self, exemplar: Exemplar) -> None:
        """Keep an example for the bucket of its value."""
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    def copy(self) -> "Histogram":
        """Return a copy."""
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.sum = self.sum
        other.exemplars = self.exemplars.copy()
        return other
