"""What the API shows of the mesh: the node, and its peers as it sees them."""

from collections.abc import Iterator
from typing import Any

import msgspec
from quart import Response
from quart_trio import QuartTrio

from node.api.peers import Peer, Peers
from node.mesh.mesh import Mesh
from node.mesh.messages import Advert
from node.mesh.peer import PeerView


def cluster_body(mesh: Mesh) -> dict[str, Any]:
    """Give the answer as plain values."""
    return {
        "node_id": mesh.node_id,
        "incarnation": mesh.incarnation,
        "address": mesh.address,
        "advert": _advert(mesh.advert()),
        "peers": [_peer(view) for view in mesh.peers()],
    }


class MeshPeers(Peers):
    """The mesh's peers, as gRPC's `GetPeers` gives them.

    Args:
        mesh: Knows them.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def known(self) -> Iterator[Peer]:
        """Give each peer as it is now."""
        for view in self._mesh.peers():
            advert = view.advert
            models = advert.models if advert else ()
            yield Peer(
                node_id=view.node_id,
                api_url=advert.api_url if advert else "",
                state=view.state,
                status=advert.status if advert else "unknown",
                models=tuple(model.model_id for model in models),
            )


def add_cluster(app: QuartTrio, mesh: Mesh) -> None:
    """Give the application the route."""

    async def cluster() -> Response:
        body = msgspec.json.encode(cluster_body(mesh))
        return Response(body, content_type="application/json")

    app.add_url_rule("/cluster", "cluster", cluster, methods=["GET"])


def _peer(view: PeerView) -> dict[str, Any]:
    return {
        "node_id": view.node_id,
        "state": view.state,
        "incarnation": view.incarnation,
        "software": view.software,
        "address": view.address,
        "silent_seconds": round(view.silent_seconds, 3),
        "round_trip_seconds": round(view.round_trip_seconds, 6),
        "advert": _advert(view.advert) if view.advert else None,
    }


def _advert(advert: Advert) -> dict[str, Any]:
    models = [msgspec.structs.asdict(model) for model in advert.models]
    return msgspec.structs.asdict(advert) | {"models": models}
