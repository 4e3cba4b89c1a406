"""Runs many nodes of one mesh in one process over the real transport; prints the cost as JSON.

Arguments: the number of nodes, and the seconds to measure once all nodes know each other.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio

from node.mesh.mesh import Mesh, open_mesh
from shared.events.event import Event
from shared.events.mesh import MessagesMoved, PeerAnswered, PeerChanged
from tests.bench.mesh_node import PAYLOAD, options
from tests.guards import strict_guard

_JOIN_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 4.0
"""Time until the last joins are no longer news."""
_POLL_SECONDS: Final = 0.02


class Tally:
    """Counts the events of all nodes."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.states: Counter[str] = Counter()
        self.answer_seconds: list[float] = []

    def take(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, MessagesMoved) and event.direction == "sent":
            self.sent_bytes += event.size_bytes
        elif isinstance(event, PeerAnswered):
            self.answer_seconds.append(event.seconds)
        elif isinstance(event, PeerChanged):
            self.states[event.state] += 1


async def run(count: int, seconds: float, directory: Path) -> dict[str, float]:
    """Start the nodes, wait until all know each other, measure, and return the figures."""
    tally = Tally()
    meshes: list[Mesh] = []
    async with AsyncExitStack() as stack:
        began = time.monotonic()
        for number in range(count):
            mesh = Mesh(lambda: ("online", PAYLOAD), tally.take)
            seed = meshes[0].address if meshes else ""
            given = options(f"n{number}", directory, seed)
            await stack.enter_async_context(open_mesh(mesh, given, strict_guard()))
            meshes.append(mesh)
        with trio.fail_after(_JOIN_SECONDS):
            while any(_living(mesh) < count - 1 for mesh in meshes):  # noqa: ASYNC110
                await trio.sleep(_POLL_SECONDS)
        joined = time.monotonic() - began
        await trio.sleep(_SETTLE_SECONDS)
        tally.sent_bytes = 0
        tally.states.clear()
        tally.answer_seconds.clear()
        cpu_began, began = time.process_time(), time.monotonic()
        await trio.sleep(seconds)
        passed = time.monotonic() - began
        answers = sorted(tally.answer_seconds)
        return {
            "joined_seconds": joined,
            "cpu_share": (time.process_time() - cpu_began) / passed / count,
            "sent_bytes": tally.sent_bytes / passed / count,
            "answers": len(answers) / passed / count,
            "median_seconds": answers[len(answers) // 2],
            "longest_seconds": answers[-1],
            "suspected": tally.states["suspect"],
            "dead": tally.states["dead"],
        }


def _living(mesh: Mesh) -> int:
    return sum(peer.state == "alive" for peer in mesh.peers())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        figures = trio.run(run, int(sys.argv[1]), float(sys.argv[2]), Path(name))
    sys.stdout.write(json.dumps(figures) + "\n")
