"""Clients take turns in a bounded queue that none of them can fill."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node.serving.fair_queue import FairQueue

clients = st.sampled_from(["a", "b", "c"])


def drained(queue: FairQueue[str]) -> list[str]:
    """Take every item."""
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


def test_clients_are_served_in_turn() -> None:
    """Clients are served in turn, each in its own order."""
    queue = FairQueue[str](9)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.put(item[0], item) is None
    assert drained(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_late_client_waits_one_turn() -> None:
    """A late client waits for one item of each other client."""
    queue = FairQueue[str](9)
    for item in ("a1", "a2", "b1", "b2"):
        queue.put(item[0], item)
    assert queue.take() == "a1"
    queue.put("c", "c1")
    assert drained(queue) == ["b1", "a2", "c1", "b2"]


def test_full_queue_makes_room_for_who_asks_less() -> None:
    """A full queue drops the newest item of the largest client for a client with fewer."""
    queue = FairQueue[str](3)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert queue.put("a", "a4") == "a4"
    assert queue.put("b", "b1") == "a3"
    assert queue.put("b", "b2") == "b2"
    assert queue.put("c", "c1") == "a2"
    assert queue.put("d", "d1") == "d1"
    assert drained(queue) == ["a1", "b1", "c1"]


def test_removed_item_is_not_served() -> None:
    """A removed item is not served, and removing it twice is harmless."""
    queue = FairQueue[str](3)
    for item in ("a1", "a2", "b1"):
        queue.put(item[0], item)
    for _ in range(2):
        queue.remove("b", "b1")
        queue.remove("a", "a1")
    assert (len(queue), list(queue)) == (1, ["a2"])
    assert drained(queue) == ["a2"]


@given(arrivals=st.lists(clients, max_size=40), limit=st.integers(1, 8))
def test_nothing_is_lost_and_nobody_waits_behind_another_twice(
    arrivals: list[str], limit: int
) -> None:
    """Each item is served or returned once; between two of a client each other one has a turn."""
    queue = FairQueue[tuple[str, int]](limit)
    returned = []
    for number, client in enumerate(arrivals):
        if (displaced := queue.put(client, (client, number))) is not None:
            returned.append(displaced)
        assert len(queue) <= limit
    waiting = Counter(client for client, _ in queue)
    served = []
    while (item := queue.take()) is not None:
        served.append(item)
    assert sorted(served + returned, key=lambda item: item[1]) == [
        (client, number) for number, client in enumerate(arrivals)
    ]
    for client in waiting:
        assert [n for c, n in served if c == client] == sorted(n for c, n in served if c == client)
    for turn in range(1, max(waiting.values(), default=0) + 1):
        due = sum(min(count, turn) for count in waiting.values())
        assert Counter(client for client, _ in served[:due]) == Counter(
            {client: min(count, turn) for client, count in waiting.items()}
        )
