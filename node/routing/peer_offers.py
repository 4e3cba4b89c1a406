"""Reads what the peers offer: for the router, for the plan and for the API."""

import ipaddress
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from node.mesh.addresses import is_loopback
from node.mesh.mesh import Mesh
from node.mesh.peer import PeerView
from node.routing.asking import Peers
from node.routing.choice import PeerModel
from node.routing.offer import Offer, OfferedModel, UnreadableOfferError, read_offer
from shared.events import Event, NetworkFailed, NodeState
from shared.repeats import Repeats

_USABLE: Final = ("ready", "loading", "unloaded")
_SERVING: Final = ("online", "busy")
_LIVING: Final = ("alive", "suspect")
_SCHEMES: Final = ("http", "https")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownPeer:
    """A peer with what it offers."""

    view: PeerView
    offer: Offer | None
    """None where it has sent none, or one that cannot be read."""

    @property
    def status(self) -> NodeState:
        """What the peer says of itself."""
        return self.view.advert.status if self.view.advert else "unknown"

    @property
    def api_url(self) -> str:
        """Where the peer says that its API listens; empty where that is not known."""
        return self.offer.api_url if self.offer else ""

    @property
    def models(self) -> tuple[OfferedModel, ...]:
        """The models that it offers."""
        return self.offer.models if self.offer else ()

    @property
    def can_be_asked(self) -> bool:
        """Whether it takes requests: it is alive and neither draining nor ending."""
        return self.view.state == "alive" and self.status in _SERVING


class PeerOffers(Peers):
    """The peers with their offers, each read once as long as it stays the same.

    Args:
        mesh: Knows the peers.
        emit: Takes events.
    """

    def __init__(self, mesh: Mesh, emit: Callable[[Event], None]) -> None:
        self._mesh = mesh
        self._emit = emit
        self._read: dict[str, tuple[bytes, Offer | None]] = {}
        """By peer, the last payload and what it says."""
        self._repeats = Repeats(_log)

    def known(self) -> list[KnownPeer]:
        """Return all peers that are remembered, by name."""
        views = self._mesh.peers()
        self._read = {view.node_id: self._look_at(view) for view in views}
        return [KnownPeer(view, self._read[view.node_id][1]) for view in views]

    def own(self) -> Offer | None:
        """Return what this node offers, as its peers read it."""
        payload = self._mesh.advert().payload
        return self._read_offer(self._mesh.node_id, payload) if payload else None

    def find(self, model_id: str) -> list[PeerModel]:
        """Return the peers that have a model, take requests and can be reached."""
        return [peer for peer in self._usable() if peer.model_id == model_id]

    def models(self) -> set[str]:
        """Return the names of the models that peers have."""
        return {peer.model_id for peer in self._usable()}

    def is_living(self, node_id: str) -> bool:
        """Whether a peer is still believed to be there."""
        return self._mesh.state_of(node_id) in _LIVING

    def _look_at(self, view: PeerView) -> tuple[bytes, Offer | None]:
        payload = view.advert.payload if view.advert else b""
        known = self._read.get(view.node_id)
        if known is not None and known[0] == payload:
            return known
        return payload, self._read_offer(view.node_id, payload) if payload else None

    def _read_offer(self, node_id: str, payload: bytes) -> Offer | None:
        try:
            return read_offer(payload)
        except UnreadableOfferError as error:
            self._emit(NetworkFailed("malformed", 1))
            self._repeats.note(
                "what peer %s offers cannot be read, so that it is not asked: %s",
                node_id,
                error,
                kind=node_id,
            )
            return None

    def _usable(self) -> Iterator[PeerModel]:
        for peer in self.known():
            if not peer.can_be_asked or not (url := reachable_url(peer.api_url, peer.view.address)):
                continue
            for model in peer.models:
                if model.state in _USABLE:
                    yield PeerModel(
                        node_id=peer.view.node_id,
                        model_id=model.model_id,
                        url=url,
                        loaded=model.state == "ready",
                        in_flight=model.in_flight,
                        slots=model.slots_total,
                        fingerprint=model.fingerprint,
                        age_seconds=peer.view.silent_seconds,
                    )


def reachable_url(api_url: str, mesh_address: str) -> str:
    """Return where a peer's API can be reached from here; empty where it cannot.

    An API that listens on every address is where the peer's mesh is. One that listens on loopback
    is for nodes of the same machine.

    Args:
        api_url: What the peer says, perhaps nonsense.
        mesh_address: Where its mesh was reached; empty for nowhere yet.
    """
    try:
        url = urlsplit(api_url)
        host, port = ipaddress.ip_address(url.hostname or ""), url.port
    except ValueError:
        return ""
    is_odd = url.scheme not in _SCHEMES or not port or "%" in str(host)
    if is_odd or not mesh_address or (host.is_loopback and not is_loopback(mesh_address)):
        return ""
    if host.is_unspecified:
        return f"{url.scheme}://{mesh_address.rpartition(':')[0]}:{port}"
    return (
        f"{url.scheme}://[{host}]:{port}" if host.version == 6 else f"{url.scheme}://{host}:{port}"
    )
