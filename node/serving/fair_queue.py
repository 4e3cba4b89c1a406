"""A bounded queue that is fair between clients: they take turns, however much one of them asks."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Items of clients; the clients are served in turn, the items of one in their order.

    Args:
        limit: Items that it holds at the most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: dict[str, deque[ItemT]] = {}
        """By client, the one whose turn it is first."""

    def __len__(self) -> int:
        """Count the items."""
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[ItemT]:
        """Give every item, in no order that matters."""
        return (item for items in self._turns.values() for item in items)

    def put(self, client: str, item: ItemT) -> ItemT | None:
        """Take an item in; give the one that has to leave for it, perhaps itself.

        A full queue has room for who asks less: the newest item of the client that has the most
        leaves, unless the newcomer's client would then have as many.
        """
        displaced: ItemT | None = None
        if len(self) >= self._limit:
            greediest = max(self._turns, key=lambda name: len(self._turns[name]))
            if len(self._turns[greediest]) <= len(self._turns.get(client, ())) + 1:
                return item
            displaced = self._turns[greediest].pop()
        self._turns.setdefault(client, deque()).append(item)
        return displaced

    def take(self) -> ItemT | None:
        """Give the oldest item of the client whose turn it is; None where there is none."""
        if not self._turns:
            return None
        client = next(iter(self._turns))
        items = self._turns.pop(client)
        item = items.popleft()
        if items:  # to the end of the line
            self._turns[client] = items
        return item

    def remove(self, client: str, item: ItemT) -> None:
        """Let an item go that is not waited for any more."""
        items = self._turns.get(client)
        if items and item in items:
            items.remove(item)
            if not items:
                del self._turns[client]
