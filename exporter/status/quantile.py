"""Estimates a percentile from the buckets of a histogram, as Prometheus does."""

from collections.abc import Sequence
from itertools import accumulate


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return the value below which a share of the observations lies; None without observations.

    Like `histogram_quantile` of Prometheus: observations are spread evenly within their bucket, and
    those above the highest bound count as that bound.

    Args:
        share: From 0 to 1.
        bounds: Upper bounds of the buckets but the last.
        counts: Observations of each bucket, one more than there are bounds.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    lower, below = 0.0, 0.0
    for bound, count, through in zip(bounds, counts, accumulate(counts), strict=False):
        if through >= rank:
            return lower + (bound - lower) * (rank - below) / count
        lower, below = bound, through
    return lower
