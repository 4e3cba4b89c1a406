"""Reads the peers' offers for the router, the plan and the API."""

import ipaddress
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from node.mesh.addresses import is_loopback
from node.mesh.mesh import Mesh
from node.mesh.peer import PeerView
from node.routing.choice import PeerModel
from node.routing.offer import Offer, OfferedModel, UnreadableOfferError, read_offer
from node.routing.peers import Peers
from shared.events.event import Event
from shared.events.mesh import NetworkFailed, PeerPage
from shared.events.node import NodeState
from shared.repeats import Repeats

_USABLE: Final = ("ready", "loading", "unloaded")
_SERVING: Final = ("online", "busy")
_LIVING: Final = ("alive", "suspect")
_SCHEMES: Final = ("http", "https")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownPeer:
    """A peer with its offer."""

    view: PeerView
    offer: Offer | None
    """None if it has sent no offer, or an unreadable one."""

    @property
    def status(self) -> NodeState:
        """The peer's own report of its state."""
        return self.view.advert.status if self.view.advert else "unknown"

    @property
    def api_url(self) -> str:
        """The URL of the peer's API, as the peer reports it; empty while unknown."""
        return self.offer.api_url if self.offer else ""

    @property
    def models(self) -> tuple[OfferedModel, ...]:
        """The models that it offers."""
        return self.offer.models if self.offer else ()

    @property
    def can_be_asked(self) -> bool:
        """Whether it accepts requests: it is alive and neither draining nor ending."""
        return self.view.state == "alive" and self.status in _SERVING


class PeerOffers(Peers):
    """The peers with their offers; an unchanged offer is read only once.

    Args:
        mesh: Knows the peers.
        emit: Receives events.
    """

    def __init__(self, mesh: Mesh, emit: Callable[[Event], None]) -> None:
        self._mesh = mesh
        self._emit = emit
        self._read: dict[str, tuple[bytes, Offer | None]] = {}
        """The last payload and its content by peer."""
        self._repeats = Repeats(_log)

    def known(self) -> list[KnownPeer]:
        """Return all known peers by name."""
        views = self._mesh.peers()
        self._read = {view.node_id: self._look_at(view) for view in views}
        return [KnownPeer(view, self._read[view.node_id][1]) for view in views]

    def own(self) -> Offer | None:
        """Return this node's own offer, as its peers read it."""
        payload = self._mesh.advert().payload
        return self._read_offer(self._mesh.node_id, payload) if payload else None

    def levels(self) -> Iterator[Event]:
        """Yield where the peers' status pages are, as far as they can be reached from here."""
        for peer in self.known():
            page_url = peer.offer.page_url if peer.offer else ""
            if url := reachable_url(page_url, peer.view.address):
                yield PeerPage(peer.view.node_id, url)

    def find(self, model_id: str) -> list[PeerModel]:
        """Return the peers that have a model, accept requests and can be reached."""
        return [peer for peer in self._usable() if peer.model_id == model_id]

    def models(self) -> set[str]:
        """Return the names of the peers' models."""
        return {peer.model_id for peer in self._usable()}

    def is_living(self, node_id: str) -> bool:
        """Return whether a peer is still considered a member."""
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
                "the offer of peer %s cannot be read, so it gets no requests: %s",
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
                if model.state in _USABLE and not model.elsewhere:
                    yield PeerModel(
                        node_id=peer.view.node_id,
                        model_id=model.model_id,
                        url=url,
                        loaded=model.state == "ready",
                        in_flight=model.in_flight,
                        slots=model.slots_total,
                        fingerprint=model.fingerprint,
                        age_seconds=peer.view.silent_seconds,
                        context_length=model.context_length,
                    )


def reachable_url(api_url: str, mesh_address: str) -> str:
    """Return the URL at which a peer's API or page can be reached from here; empty if it cannot.

    One that listens on all addresses is reached at the address of the peer's mesh. One that
    listens on loopback is only for nodes on the same machine.

    Args:
        api_url: The URL that the peer reports, perhaps nonsense.
        mesh_address: The address at which its mesh was reached; empty if it never was.
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
