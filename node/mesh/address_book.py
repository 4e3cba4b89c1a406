"""The addresses that a node has heard of, and which of them are worth a connection."""

from collections.abc import Iterable
from typing import Final

from node.mesh.addresses import is_address

CANDIDATE_SECONDS: Final = 20.0
"""How long an address that a peer named is tried."""
CANDIDATES: Final = 128
"""As many as one message names. One that refuses costs a thousandth of a core: nng tries it again
fifty times a second at first, and every second later."""
ALIASES: Final = 1024
ALIAS_SECONDS: Final = 60.0


class AddressBook:
    """Seeds, hints, and what turned out to be another way to a node that is known.

    Args:
        own: Where the node listens itself.
    """

    def __init__(self, own: Iterable[str]) -> None:
        self.changed = True
        """Whether there is news since the last look at `wanted`."""
        self._own = frozenset(own)
        self._seeds: dict[str, frozenset[str]] = {}
        self._candidates: dict[str, float] = {}
        """Until when each is tried."""
        self._aliases: dict[str, tuple[str, float]] = {}
        """Further addresses of a node that is dialed elsewhere, or of this one, and until when that
        is believed: another node may get the address."""

    def resolved(self, seed: str, addresses: Iterable[str]) -> None:
        """Note what a seed's name stands for now; what is not an address is passed over."""
        found = frozenset(filter(is_address, addresses))
        self.changed |= self._seeds.get(seed) != found
        self._seeds[seed] = found

    def hint(self, addresses: Iterable[str], now: float) -> None:
        """Note where a node may be; what is not an address is passed over."""
        for address in addresses:
            room = address in self._candidates or len(self._candidates) < CANDIDATES
            if room and is_address(address):
                self.changed |= address not in self._candidates
                self._candidates[address] = now + CANDIDATE_SECONDS

    def settle(self, address: str) -> None:
        """Note that it is known who answers at an address."""
        self._candidates.pop(address, None)

    def alias(self, address: str, node_id: str, now: float) -> None:
        """Note that an address is one more way to a node."""
        if len(self._aliases) < ALIASES:
            self._aliases[address] = (node_id, now + ALIAS_SECONDS)

    def drop_aliases(self, node_id: str) -> None:
        """Try every way to a node again."""
        self._aliases = {a: alias for a, alias in self._aliases.items() if alias[0] != node_id}

    def expire(self, now: float) -> None:
        """Drop what has been believed for long enough."""
        self._candidates = {a: until for a, until in self._candidates.items() if until > now}
        self._aliases = {a: alias for a, alias in self._aliases.items() if alias[1] > now}

    def wanted(self, known: Iterable[str]) -> set[str]:
        """Return the addresses to dial; `known` are those of peers."""
        self.changed = False
        found = set(known).union(self._candidates, *self._seeds.values())
        return found - self._aliases.keys() - self._own
