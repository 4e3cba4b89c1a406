"""Holds a tunnel: `python -m tests.tunnel_client URL NODE SECRET`.

Prints a line when a client has been answered through it, and another when the worker is lost and
that client's connection was reset.
"""

import sys
import time

import trio

from node.pipeline.remote import Tunnels
from node.pipeline.tunnel import TunnelRefusedError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from tests.tunnels import claim, connect, shout, wait_reset


async def main(url: str, node_id: str, secret: str) -> None:
    """Hold a tunnel until it is lost."""
    tunnels = Tunnels(Signer((secret,)), PeerTrust())
    while True:
        try:
            async with tunnels.open(url, claim(node_id=node_id)) as tunnel:
                async with await connect(tunnel.endpoint) as client:
                    await shout(client, b"hello")
                    print("open", flush=True)
                    loss = await tunnel.wait_lost()
                    await wait_reset(client)
                    print(loss, time.monotonic(), flush=True)
                return
        except TunnelRefusedError as error:
            if error.reason != "absent":  # the node has not yet identified its build
                raise
            await trio.sleep(0.1)


if __name__ == "__main__":
    address, peer, shared = sys.argv[1:]
    trio.run(main, address, peer, shared)
