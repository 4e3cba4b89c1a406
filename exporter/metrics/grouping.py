"""Sorts events into groups that can be counted together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, Final, TypeVar

from shared.events.event import Event
from shared.events.mesh import PeerForgotten, PeerPage
from shared.events.models import ModelDescribed, ModelLoadFailed, ModelUnloaded

_E = TypeVar("_E")
_IN_ORDER: Final = frozenset(
    {
        ModelDescribed,
        ModelLoadFailed,
        ModelUnloaded,
        PeerForgotten,
        PeerPage,
    }
)
"""Events that create or remove series of other events: what came before them counts before them."""


def sort_by_kind(happened: Iterable[Event]) -> Iterator[list[Any]]:
    """Yield the events in groups of one kind, which count in this order as in their own.

    The order of two events matters only if they are of one kind or one is of `_IN_ORDER`. (And for
    which label values become `other` if a batch fills a family's budget.)
    """
    groups: defaultdict[type[Event], list[Event]] = defaultdict(list)
    for event in happened:
        kind = type(event)
        if kind in _IN_ORDER:
            yield from groups.values()
            groups.clear()
            yield [event]
        else:
            groups[kind].append(event)
    yield from groups.values()


def split_by(happened: Iterable[_E], *fields: str) -> Iterable[tuple[Any, list[_E]]]:
    """Return the events of each value of a field, or of each tuple of values of several fields."""
    groups: defaultdict[Any, list[_E]] = defaultdict(list)
    value = attrgetter(*fields)
    for event in happened:
        groups[value(event)].append(event)
    return groups.items()


def split_by_model(node: str, happened: list[_E]) -> Iterator[tuple[tuple[str, str], list[_E]]]:
    """Yield the events of each model, with the labels of node and model."""
    for model_id, group in split_by(happened, "model_id"):
        yield (node, model_id), group
