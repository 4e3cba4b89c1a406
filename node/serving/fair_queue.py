"""A bounded queue that is fair between clients: they take turns, however much one of them asks."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Items of clients. The clients are served in turn, the items of one client in order.

    Args:
        limit: Limit of items in the queue.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: dict[str, deque[ItemT]] = {}
        """By client; the client whose turn is next comes first."""

    def __len__(self) -> int:
        """Return the number of items."""
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[ItemT]:
        """Yield the items in serving order."""
        for turn in range(max(map(len, self._turns.values()), default=0)):
            for items in self._turns.values():
                if turn < len(items):
                    yield items[turn]

    def put(self, client: str, item: ItemT) -> ItemT | None:
        """Add an item. Return the item that has to leave for it, which may be the item itself.

        A full queue still has room for a client with few items: the newest item of the client with
        the most leaves, unless the newcomer's client would then have as many.
        """
        displaced: ItemT | None = None
        if len(self) >= self._limit:
            greediest = max(self._turns, key=lambda name: len(self._turns[name]))
            if len(self._turns[greediest]) <= len(self._turns.get(client, ())) + 1:
                return item
            displaced = self._turns[greediest].pop()
        self._turns.setdefault(client, deque()).append(item)
        return displaced

    def put_back(self, client: str, item: ItemT) -> None:
        """Return a taken item to the front, even if the queue is full."""
        items = self._turns.pop(client, deque())
        items.appendleft(item)
        self._turns = {client: items, **self._turns}

    def take(self, is_due: Callable[[ItemT], bool] = lambda _: True) -> ItemT | None:
        """Remove and return the next client's oldest item that is due; None if there is none."""
        for item in self:
            if is_due(item):
                client = next(c for c, items in self._turns.items() if item in items)
                self.remove(client, item, served=True)
                return item
        return None

    def remove(self, client: str, item: ItemT, *, served: bool = False) -> bool:
        """Remove an item. Return whether it was there.

        Args:
            client: The item's client.
            item: The item.
            served: Whether it was served, so that its client has had its turn.
        """
        items = self._turns.get(client)
        if not items or item not in items:
            return False
        items.remove(item)
        if served or not items:
            del self._turns[client]
        if served and items:  # to the end of the order
            self._turns[client] = items
        return True
