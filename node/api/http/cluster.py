"""The route `/cluster`: the node and its peers, as the node sees them."""

from typing import Any

import msgspec
from quart import Response
from quart_trio import QuartTrio

from node.mesh.mesh import Mesh
from node.mesh.messages import Advert
from node.routing.offer import Offer
from node.routing.peer_offers import KnownPeer, PeerOffers


def cluster_body(mesh: Mesh, peers: PeerOffers) -> dict[str, Any]:
    """Return the response as plain values."""
    return {
        "node_id": mesh.node_id,
        "incarnation": mesh.incarnation,
        "address": mesh.address,
        "advert": _advert(mesh.advert(), peers.own(), mesh.software),
        "peers": [_peer(peer) for peer in peers.known()],
    }


def add_cluster(app: QuartTrio, mesh: Mesh, peers: PeerOffers) -> None:
    """Add the route to the application."""

    async def cluster() -> Response:
        body = msgspec.json.encode(cluster_body(mesh, peers))
        return Response(body, content_type="application/json")

    app.add_url_rule("/cluster", "cluster", cluster, methods=["GET"])


def _peer(peer: KnownPeer) -> dict[str, Any]:
    view = peer.view
    return {
        "node_id": view.node_id,
        "state": view.state,
        "incarnation": view.incarnation,
        "software": view.software,
        "address": view.address,
        "silent_seconds": round(view.silent_seconds, 3),
        "round_trip_seconds": round(view.round_trip_seconds, 6),
        "advert": _advert(view.advert, peer.offer, view.software),
    }


def _advert(advert: Advert | None, offer: Offer | None, software: str) -> dict[str, Any] | None:
    """Return an advert and its payload's offer as one object."""
    if advert is None or offer is None:
        return None
    said = {
        "addresses": advert.addresses,
        "software": software,
        "status": advert.status,
        "lag_seconds": advert.lag_seconds,
    }
    listed = {
        "models": [msgspec.structs.asdict(model) for model in offer.models],
        "stages": [msgspec.structs.asdict(stage) for stage in offer.stages],
    }
    return said | msgspec.structs.asdict(offer) | listed
