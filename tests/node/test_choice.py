"""The node that answers a request is the one with the shortest wait."""

import itertools

import pytest

from node.routing.choice import HERE, Candidate, choose


def here(in_flight: int, *, loaded: bool = True, full: bool = False) -> Candidate:
    return Candidate(HERE, loaded, in_flight, 1, full)


def peer(name: str, in_flight: int, *, loaded: bool = True, slots: int = 1) -> Candidate:
    return Candidate(name, loaded, in_flight, slots)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([], None),
        ([here(0), peer("a", 0)], HERE),
        ([here(1), peer("a", 0)], "a"),
        ([here(1), peer("a", 1)], HERE),
        ([here(2), peer("a", 1)], HERE),
        ([here(3), peer("a", 1)], "a"),
        ([here(9, full=True), peer("a", 8)], "a"),
        ([here(9, full=True)], HERE),
        ([here(0, loaded=False), peer("a", 0)], "a"),
        ([here(0, loaded=False), peer("a", 5)], "a"),
        ([here(0, loaded=False), peer("a", 0, loaded=False)], HERE),
        ([peer("a", 2), peer("b", 1), peer("c", 1, loaded=False)], "b"),
        ([peer("a", 3), peer("b", 4, slots=4)], "b"),
        ([peer("b", 1), peer("a", 1)], "a"),
    ],
)
def test_node_is_chosen(candidates: list[Candidate], chosen: str | None) -> None:
    """The order is: this node if free, free peers, the least load; memory before disk."""
    for order in itertools.permutations(candidates):
        found = choose(order)
        assert (None if found is None else found.node_id) == chosen


def test_who_failed_is_left_out() -> None:
    """A node that failed is not tried again for the same request."""
    candidates = [here(1), peer("a", 0), peer("b", 1)]
    assert choose(candidates, {"a"}) == here(1)
    assert choose(candidates, {"a", HERE}) == peer("b", 1)
    assert choose(candidates, {"a", "b", HERE}) is None
