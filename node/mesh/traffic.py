"""Counts messages and failures of the mesh, so that one event a second covers many."""

from collections import Counter
from collections.abc import Iterator

from shared.events.event import Event
from shared.events.mesh import Direction, MessagesMoved, MessageType, NetworkFailed, NetworkFault


class Traffic:
    """The counts since the last report."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Direction, MessageType]] = Counter()
        self._bytes: Counter[tuple[Direction, MessageType]] = Counter()
        self._failed: Counter[NetworkFault] = Counter()

    def note(self, direction: Direction, kind: MessageType, size: int, copies: int = 1) -> None:
        """Count messages of one size."""
        self._counts[direction, kind] += copies
        self._bytes[direction, kind] += copies * size

    def fail(self, reason: NetworkFault, count: int = 1) -> None:
        """Count failures."""
        self._failed[reason] += count

    def report(self) -> Iterator[Event]:
        """Yield the counts and reset them."""
        counts, sizes, failed = self._counts, self._bytes, self._failed
        self._counts, self._bytes, self._failed = Counter(), Counter(), Counter()
        for (direction, kind), count in counts.items():
            if count:
                yield MessagesMoved(direction, kind, count, sizes[direction, kind])
        for reason, count in failed.items():
            if count:
                yield NetworkFailed(reason, count)
