"""The addresses that a node knows, and which of them to dial."""

from collections.abc import Iterable
from typing import Final

from node.mesh.addresses import is_address

CANDIDATE_SECONDS: Final = 20.0
"""How long an address that a peer named is tried."""
CANDIDATES: Final = 128
"""As many as one message names. An address that refuses costs a thousandth of a core: nng retries
it fifty times a second at first, then once a second."""
ALIASES: Final = 1024
ALIAS_SECONDS: Final = 60.0


class AddressBook:
    """Seeds, hints, and further addresses of nodes that are already known.

    Args:
        own: The addresses on which this node itself listens.
    """

    def __init__(self, own: Iterable[str]) -> None:
        self.changed = True
        """Whether anything changed since the last call of `wanted`."""
        self._own = frozenset(own)
        self._seeds: dict[str, frozenset[str]] = {}
        self._candidates: dict[str, float] = {}
        """When each address expires."""
        self._aliases: dict[str, tuple[str, float]] = {}
        """Further addresses of a node that is dialed elsewhere, or of this node, and when each
        entry expires: another node may get the address."""

    def resolved(self, seed: str, addresses: Iterable[str]) -> None:
        """Record the addresses of a seed's name; skip what is not an address."""
        found = frozenset(filter(is_address, addresses))
        self.changed |= self._seeds.get(seed) != found
        self._seeds[seed] = found

    def hint(self, addresses: Iterable[str], now: float) -> None:
        """Record where a node may be; skip what is not an address."""
        for address in addresses:
            room = address in self._candidates or len(self._candidates) < CANDIDATES
            if room and is_address(address):
                self.changed |= address not in self._candidates
                self._candidates[address] = now + CANDIDATE_SECONDS

    def settle(self, address: str) -> None:
        """Record that it is known which node answers at an address."""
        self._candidates.pop(address, None)

    def alias(self, address: str, node_id: str, now: float) -> None:
        """Record that an address is another one of a known node."""
        if len(self._aliases) < ALIASES:
            self._aliases[address] = (node_id, now + ALIAS_SECONDS)

    def drop_aliases(self, node_id: str) -> None:
        """Try every address of a node again."""
        self._aliases = {a: alias for a, alias in self._aliases.items() if alias[0] != node_id}

    def expire(self, now: float) -> None:
        """Drop the entries that have expired."""
        self._candidates = {a: until for a, until in self._candidates.items() if until > now}
        self._aliases = {a: alias for a, alias in self._aliases.items() if alias[1] > now}

    def wanted(self, known: Iterable[str]) -> set[str]:
        """Return the addresses to dial; `known` are the peers' addresses."""
        self.changed = False
        found = set(known).union(self._candidates, *self._seeds.values())
        return found - self._aliases.keys() - self._own
