"""Runs only a node's part in the mesh, and prints the state of its peers.

Each line is a JSON object with the monotonic time, which all processes of a machine share, the peer
and its state. The first line has the listening address.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

import trio

from node.mesh.mesh import Mesh, open_mesh
from node.mesh.options import MeshOptions
from node.routing.offer import Offer, OfferedModel, pack_offer
from shared.events.event import Event
from shared.events.mesh import PeerChanged
from tests.guards import strict_guard

SECRET: Final = "the secret of a measured mesh"
OFFER: Final = Offer(
    api_url="http://127.0.0.1:8080",
    engine="ctransformers",
    cpu_cores=2.0,
    memory_bytes=2**34,
    max_layers=64,
    bytes_per_second=1e9,
    models=(OfferedModel("demo", "ready", 6, 2_467_200, 3840, 512, 0, 0, 0, 1),),
)
PAYLOAD: Final = pack_offer(OFFER)


def options(
    node_id: str, state_dir: Path, seed: str, port: int = 0, host: str = "127.0.0.1"
) -> MeshOptions:
    """Return the settings of a node of the measured mesh."""
    return MeshOptions(
        node_id=node_id,
        software="0.1.0",
        state_dir=state_dir,
        host=host,
        port=port,
        seeds=(seed,) if seed else (),
        secrets=(SECRET,),
    )


async def run(node_id: str, state_dir: Path, seed: str, port: int, host: str) -> None:
    """Take part in the mesh until SIGTERM."""

    def tell(event: Event) -> None:
        if isinstance(event, PeerChanged):
            say(peer=event.peer, state=event.state)

    mesh = Mesh(lambda: ("online", PAYLOAD), tell)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_mesh(mesh, options(node_id, state_dir, seed, port, host), strict_guard()):
            say(address=mesh.address)
            await anext(signals)


def say(**what: str) -> None:
    """Print a line."""
    sys.stdout.write(json.dumps({"at": time.monotonic()} | what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(run, sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
