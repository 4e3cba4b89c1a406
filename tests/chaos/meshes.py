"""Faults of the mesh: peers that are killed, frozen, cut off, leave, or join all at once.

The nodes are real processes with the product's part in the mesh and no engine. Their times are on
the monotonic clock, which all processes of a machine share.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench.processes import REPOSITORY
from tests.chaos.rows import Row, skipped
from tests.processes import free_port, wait_for

KILLED_SECONDS: Final = 2.0
FROZEN_SECONDS: Final = 3.0
LEFT_SECONDS: Final = 1.0
JOIN_SECONDS: Final = 2.0
HEALED_SECONDS: Final = 3.0
_CALM_SECONDS: Final = 3.0
_SEED: Final = 20240229


class Seen(NamedTuple):
    """The state that a node reported of a peer, and the time."""

    at: float
    peer: str
    state: str


class MeshNode:
    """A running `tests.bench.mesh_node`."""

    def __init__(
        self,
        node_id: str,
        directory: Path,
        seed: str,
        port: int,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        self.node_id = node_id
        self._told = directory / f"{node_id}-{time.monotonic_ns()}.told"
        self.log = directory / f"{node_id}.log"
        with self._told.open("w") as told, self.log.open("a") as stderr:
            self.process = subprocess.Popen(
                [
                    *within,
                    *(sys.executable, "-m", "tests.bench.mesh_node"),
                    *(node_id, str(directory), seed, str(port), host),
                ],
                cwd=REPOSITORY,
                stdout=told,
                stderr=stderr,
            )

    @property
    def listening_at(self) -> float:
        """When it began to listen."""
        return float(wait_for(self._lines, 60)[0]["at"])

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return str(wait_for(self._lines, 60)[0]["address"])

    def seen(self) -> list[Seen]:
        """Return everything that it has reported of its peers."""
        return [Seen(line["at"], line["peer"], line["state"]) for line in self._lines()[1:]]

    def states(self) -> dict[str, str]:
        """Return the last reported state of each peer."""
        return {seen.peer: seen.state for seen in self.seen()}

    def end(self, number: signal.Signals) -> float:
        """Send a signal, wait for the end, and return when it was sent."""
        sent_at = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        return sent_at

    def _lines(self) -> list[Any]:
        whole = self._told.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]


class Ground:
    """The nodes of one mesh."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[MeshNode] = []
        self.seed = ""
        self._ports: dict[str, int] = {}

    def start(self, *node_ids: str) -> list[MeshNode]:
        """Start nodes with the first one as seed; a node that returns has its old port."""
        started = []
        for node_id in node_ids:
            port = self._ports.setdefault(node_id, free_port())
            node = MeshNode(node_id, self.directory, self.seed, port)
            self.nodes.append(node)
            started.append(node)
            self.seed = self.seed or node.address
        return started

    @property
    def living(self) -> list[MeshNode]:
        """Return the nodes whose processes run."""
        return [node for node in self.nodes if node.process.poll() is None]

    def agree(self) -> bool:
        """Return whether each node sees exactly the others as alive."""
        return _agree(self.living)

    def end(self) -> None:
        """End all nodes that still run."""
        for node in self.living:
            node.process.kill()
            node.process.wait()

    def log_row(self) -> Row:
        """Return whether a process logged an error."""
        count = sum(node.log.read_text().count("Traceback") for node in self.nodes)
        return Row("no traceback in any log", f"{count}", count == 0)


def joined(directory: Path, count: int = 10) -> list[Row]:
    """Start nodes with one seed, and measure when all know each other."""
    with _ground(directory) as ground:
        ground.start(*(f"n{number}" for number in range(count)))
        wait_for(ground.agree, 60)
        last = max(node.listening_at for node in ground.nodes)
        done = max(seen.at for node in ground.nodes for seen in node.seen())
        return [
            Row(
                f"{count} nodes know each other within {JOIN_SECONDS:g} s of the last one's start",
                f"{done - last:.2f} s",
                done - last <= JOIN_SECONDS,
            ),
            ground.log_row(),
        ]


def killed(directory: Path, count: int = 5, kills: int = 10) -> list[Row]:
    """Kill a random node, measure when all others see it as dead, and restart it."""

    def kill(node: MeshNode) -> float:
        return node.end(signal.SIGKILL)

    return _repeat(directory, count, kills, kill, ("dead", KILLED_SECONDS, "killed -9"))


def left(directory: Path, count: int = 5, times: int = 5) -> list[Row]:
    """Let a random node leave, measure when all others know, and restart it."""

    def leave(node: MeshNode) -> float:
        return node.end(signal.SIGTERM)

    return _repeat(directory, count, times, leave, ("left", LEFT_SECONDS, "leaving"))


def frozen(directory: Path, count: int = 5, times: int = 5) -> list[Row]:
    """Stop a random node, measure when all others see it as dead, and resume it."""

    def freeze(node: MeshNode) -> float:
        sent_at = time.monotonic()
        node.process.send_signal(signal.SIGSTOP)
        return sent_at

    return _repeat(directory, count, times, freeze, ("dead", FROZEN_SECONDS, "stopped"))


def parted(directory: Path, seconds: float = 20.0) -> list[Row]:
    """Cut a network in two halves so that all messages between them are lost, and restore it."""
    if os.geteuid() or not shutil.which("ip"):
        return [skipped("network namespaces need root and iproute2")]
    with _ground(directory) as ground, two_hosts() as (names, addresses):
        for number in range(6):
            side = number % 2
            within = ("ip", "netns", "exec", names[side])
            node = MeshNode(
                f"n{number}", directory, ground.seed, 7946 + number, addresses[side], within
            )
            ground.nodes.append(node)
            ground.seed = ground.seed or node.address
        wait_for(ground.agree, 60)
        halves = [ground.nodes[::2], ground.nodes[1::2]]
        lose_all(names, addresses)
        cut_at = time.monotonic()
        wait_for(lambda: all(_agree(half) for half in halves), 30)
        apart = max(seen.at for node in ground.nodes for seen in node.seen()) - cut_at
        time.sleep(seconds)
        for name in names:
            _ip("-n", name, "neighbour", "flush", "dev", "mesh0", "nud", "permanent")
        healed_at = time.monotonic()
        wait_for(ground.agree, 60)
        whole = max(seen.at for node in ground.nodes for seen in node.seen()) - healed_at
        return [
            Row(
                f"network cut: each half knows within {FROZEN_SECONDS:g} s that it is alone",
                f"{apart:.2f} s",
                apart <= FROZEN_SECONDS,
            ),
            Row(
                f"restored after {seconds:g} s: one mesh within {HEALED_SECONDS:g} s, no ghost",
                f"{whole:.2f} s",
                whole <= HEALED_SECONDS,
            ),
            ground.log_row(),
        ]


def _agree(nodes: Sequence[MeshNode]) -> bool:
    """Return whether each of these nodes sees exactly the others of them as alive."""
    names = {node.node_id for node in nodes}
    return all(
        {peer for peer, state in node.states().items() if state == "alive"}
        == names - {node.node_id}
        for node in nodes
    )


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Make two network namespaces connected by a cable; yield their names and addresses."""
    names = [f"mesh-{os.getpid()}-{side}" for side in "ab"]
    addresses = ["10.231.7.1", "10.231.7.2"]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip(
            *("-n", names[0], "link", "add", "mesh0", "type", "veth"),
            *("peer", "name", "mesh0", "netns", names[1]),
        )
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "mesh0")
            _ip("-n", name, "link", "set", "mesh0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names, addresses
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def lose_all(names: Sequence[str], addresses: Sequence[str]) -> None:
    """Send the traffic of both hosts to a missing card: no error, and nothing arrives."""
    for name, other in zip(names, reversed(addresses), strict=True):
        _ip(
            *("-n", name, "neighbour", "replace", other, "dev", "mesh0"),
            *("lladdr", "02:00:00:00:00:99", "nud", "permanent"),
        )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _repeat(
    directory: Path,
    count: int,
    times: int,
    strike: Callable[[MeshNode], float],
    promise: tuple[str, float, str],
) -> list[Row]:
    """Do it to random nodes many times; each time the mesh is complete again afterwards."""
    state, limit, words = promise
    draw = random.Random(_SEED)
    seconds: list[float] = []
    back: list[float] = []
    with _ground(directory) as ground:
        ground.start(*(f"n{number}" for number in range(count)))
        wait_for(ground.agree, 60)
        for _ in range(times):
            time.sleep(_CALM_SECONDS)
            victim = draw.choice(ground.living)
            others = [node for node in ground.living if node is not victim]
            struck_at = strike(victim)
            told = [_wait_told(node, victim.node_id, state, struck_at) for node in others]
            seconds.append(max(told) - struck_at)
            back.append(_mend(ground, victim))
        false = _false_deaths(ground, times * (count - 1), state)
        return [
            Row(
                f"{words}: {state} on all {count - 1} others within {limit:g} s",
                f"at most {max(seconds):.2f} s in {times} times, {min(seconds):.2f} s at least",
                max(seconds) <= limit,
            ),
            Row(
                f"back: alive on all within {JOIN_SECONDS:g} s, and no ghost",
                f"at most {max(back):.2f} s",
                max(back) <= JOIN_SECONDS,
            ),
            Row("no live node was declared dead", f"{false} false deaths", false == 0),
            ground.log_row(),
        ]


def _wait_told(node: MeshNode, peer: str, state: str, since: float) -> float:
    """Wait until a node reports a peer's new state; return when it did."""

    def told() -> list[float]:
        return [s.at for s in node.seen() if s.at > since and (s.peer, s.state) == (peer, state)]

    return float(wait_for(told, 30)[0])


def _mend(ground: Ground, victim: MeshNode) -> float:
    """Restart a node; return how long all took to agree, from when it could speak."""
    if victim.process.poll() is None:
        began = time.monotonic()
        victim.process.send_signal(signal.SIGCONT)
        speaking = victim
    else:
        ground.nodes.remove(victim)
        [speaking] = ground.start(victim.node_id)
        began = speaking.listening_at
    wait_for(ground.agree, 30)
    last = [node.seen()[-1].at for node in ground.living if node.seen()]
    return max(0.0, max(last) - began)


def _false_deaths(ground: Ground, expected: int, state: str) -> int:
    """Return the number of reported deaths beyond the real ones."""
    deaths = sum(seen.state == "dead" for node in ground.nodes for seen in node.seen())
    # Nodes that ended took their reports of earlier deaths with them.
    return max(0, deaths - (expected if state == "dead" else 0))


@contextlib.contextmanager
def _ground(directory: Path) -> Iterator[Ground]:
    ground = Ground(directory)
    try:
        yield ground
    finally:
        ground.end()
