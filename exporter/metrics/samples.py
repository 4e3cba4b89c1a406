"""Reads what events of one kind mean in metrics, and whether that is possible."""

import math
from collections.abc import Iterable
from typing import Any

from exporter.metrics.rules.every import GROUP_RULES, RULES
from exporter.metrics.rules.rule import Column, Sample


def read_samples(node: str, group: list[Any]) -> list[Sample | Column]:
    """Return what some events move.

    Args:
        node: The name of their node.
        group: At least one event; all of one kind.
    """
    kind = type(group[0])
    if kind in GROUP_RULES:
        return list(GROUP_RULES[kind](node, group))
    return [sample for event in group for sample in RULES[kind](node, event)]


def are_sound(samples: Iterable[Sample | Column]) -> bool:
    """Return whether no number is negative, infinite or NaN, for which comparisons are false."""
    for _, _, value in samples:
        if not isinstance(value, list):
            if not 0 <= value < math.inf:
                return False
        elif value and not (min(value) >= 0 and sum(value) < math.inf):
            return False
    return True
