"""What the mesh knows of other nodes' models, as the router wants it."""

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from node.mesh.addresses import is_loopback
from node.mesh.mesh import Mesh
from node.mesh.peer import PeerView
from node.routing.router import PeerModel

_USABLE: Final = ("ready", "loading", "unloaded")
_THERE: Final = ("alive", "suspect")


class MeshModels:
    """The models of the living peers.

    Args:
        mesh: Knows the peers.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def find(self, model_id: str) -> list[PeerModel]:
        """Give the peers that have a model, take requests and can be reached."""
        return [peer for peer in self._all() if peer.model_id == model_id]

    def models(self) -> set[str]:
        """Name the models that peers have."""
        return {peer.model_id for peer in self._all()}

    def is_living(self, node_id: str) -> bool:
        """Whether a peer is still held to be there."""
        return any(peer.node_id == node_id and peer.state in _THERE for peer in self._mesh.peers())

    def _all(self) -> Iterator[PeerModel]:
        for view in self._mesh.living():
            if view.advert is None or not (url := api_url_of(view)):
                continue
            for model in view.advert.models:
                if model.state in _USABLE:
                    yield PeerModel(
                        node_id=view.node_id,
                        model_id=model.model_id,
                        url=url,
                        loaded=model.state == "ready",
                        in_flight=model.in_flight,
                        slots=model.slots_total,
                        fingerprint=model.fingerprint,
                    )


def api_url_of(view: PeerView) -> str:
    """Give where a peer's API can be reached from here; nothing where it cannot.

    An API that listens everywhere is where the peer's mesh is. One that listens on loopback is
    for nodes of the same machine.
    """
    if view.advert is None or not view.address:
        return ""
    try:
        url = urlsplit(view.advert.api_url)
        listens = ipaddress.ip_address(url.hostname or "")
        port = url.port
    except ValueError:
        return ""
    if listens.is_loopback and not is_loopback(view.address):
        return ""
    if not listens.is_unspecified:
        return view.advert.api_url
    return f"{url.scheme}://{view.address.rpartition(':')[0]}:{port}"
