"""Real nodes form a mesh, notice failures, and reject strangers."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.demo import MODEL_PATH
from tests import commands, grpc_client
from tests.processes import Pair, Running, free_port, wait_for

SECRET = "the secret of the mesh that a test made"


class Cluster:
    """Nodes that share a seed; each has its own directories."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.seed = free_port()
        self._stack = stack

    def start(self, node_id: str, *flags: str, mesh_port: int = 0) -> Running:
        pair = Pair(self.directory / node_id)
        node = pair.node(
            f"--node-id={node_id}",
            f"--mesh-port={mesh_port}",
            f"--seed-nodes=127.0.0.1:{self.seed}",
            *flags,
        )
        return self._stack.enter_context(node)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def view(node: Running) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{node.url}/cluster").raise_for_status().json()
    return body


def states(node: Running) -> dict[str, str]:
    return {peer["node_id"]: peer["state"] for peer in view(node)["peers"]}


@pytest.mark.slow
def test_nodes_join_die_and_come_back(cluster: Cluster) -> None:
    """A mesh of three sees a kill, a restart under the same name, and a goodbye."""
    first = cluster.start("a", mesh_port=cluster.seed)
    second, third = cluster.start("b"), cluster.start("c")
    wait_for(lambda: states(first) == {"b": "alive", "c": "alive"})
    wait_for(lambda: states(third) == {"a": "alive", "b": "alive"})
    shown = view(first)
    assert shown["node_id"] == "a"
    assert shown["address"] == f"127.0.0.1:{cluster.seed}"
    heard = {peer["node_id"]: peer for peer in shown["peers"]}
    assert heard["b"]["advert"]["api_url"] == second.url

    def models_of(node_id: str) -> list[tuple[str, str, int]]:
        [peer] = [peer for peer in view(first)["peers"] if peer["node_id"] == node_id]
        return [(m["model_id"], m["state"], m["layers"]) for m in peer["advert"]["models"]]

    # A node joins before its model is loaded: the layers come with the next round.
    wait_for(lambda: models_of("c") == [("demo", "ready", 6)])

    incarnation = heard["b"]["incarnation"]
    second.end(signal.SIGKILL)
    wait_for(lambda: states(first)["b"] == states(third)["b"] == "dead")
    cluster.start("b")
    wait_for(lambda: states(first) == {"b": "alive", "c": "alive"})
    [again] = [peer for peer in view(first)["peers"] if peer["node_id"] == "b"]
    assert again["incarnation"] > incarnation

    assert third.end() == 0
    wait_for(lambda: states(first)["c"] == "left")
    log = first.log.read_text()
    for said in ("peer b at", "joined", "is suspect", "is dead", "is back", "left"):
        assert said in log


@pytest.mark.slow
def test_peers_are_listed_over_grpc(cluster: Cluster) -> None:
    """GetPeers lists each peer's address, state and models."""
    first = cluster.start("a", mesh_port=cluster.seed)
    second = cluster.start("b", f"--model=story={MODEL_PATH}")
    wait_for(lambda: states(first) == {"b": "alive"})
    with grpc_client.connect(first.url) as client:
        (peer,) = client.inference.GetPeers(grpc_client.pb.GetPeersRequest(), timeout=20).peers
        assert (peer.node_id, peer.api_url, list(peer.models)) == ("b", second.url, ["story"])
        second.end(signal.SIGKILL)
        wait_for(lambda: states(first) == {"b": "dead"})
        (gone,) = client.inference.GetPeers(grpc_client.pb.GetPeersRequest(), timeout=20).peers
        assert gone.state != peer.state


@pytest.mark.slow
def test_plan_is_explained_by_a_node_of_the_mesh(cluster: Cluster) -> None:
    """`plan --explain` uses a running node's view and explains each node's share."""
    first = cluster.start("a", mesh_port=cluster.seed)
    cluster.start("b")
    wait_for(lambda: states(first) == {"b": "alive"})
    done = commands.run(
        "node", "plan", "--explain", "--replicas=1", f"--api-url={first.url}", str(MODEL_PATH)
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "demo: 6 layers, 2 MiB of weights"
    assert "all layers, predicted 132 MiB of" in lines[1]
    assert lines[2].endswith("holds none: there are enough replicas")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["/no/such.gguf"], 1, "no model file"),
        (["/etc/passwd"], 1, "not a GGUF file"),
        ([str(MODEL_PATH), "--api-url=ftp://x"], 2, "--api-url"),
        ([str(MODEL_PATH), "--api-url=http://127.0.0.1:1"], 1, "does not answer"),
        ([str(MODEL_PATH), "--api-key-file=/no/such"], 1, "/no/such"),
        ([], 2, "MODEL"),
    ],
)
def test_plan_without_its_needs_is_one_line(arguments: list[str], code: int, says: str) -> None:
    """A plan that cannot be made is one line without a traceback."""
    done = commands.run("node", "plan", *arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr


@pytest.mark.slow
def test_stranger_stays_outside(cluster: Cluster, tmp_path: Path) -> None:
    """A node with another secret is not a peer, and both sides log the remedy."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(SECRET)
    theirs.write_text(SECRET[::-1])
    first = cluster.start("a", f"--mesh-secret-file={ours}", mesh_port=cluster.seed)
    second = cluster.start("b", f"--mesh-secret-file={ours}")
    stranger = cluster.start("c", f"--mesh-secret-file={theirs}")
    wait_for(lambda: states(first) == {"b": "alive"})
    assert states(second) == {"a": "alive"}
    assert states(stranger) == {}
    for node in (first, stranger):
        wait_for(lambda node=node: "the same --mesh-secret-file" in node.log.read_text())  # type: ignore[misc]
    for node in (first, second, stranger):
        assert SECRET not in node.log.read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mesh-host=0.0.0.0"], "--mesh-secret-file"),
        (["--host=0.0.0.0", "--seed-nodes=192.0.2.1:7946"], "--mesh-secret-file"),
        (["--mesh-secret-file=/no/such"], "--mesh-secret-file"),
        (["--mesh-tls-cert-file=/no/such"], "--mesh-tls-key-file"),
    ],
)
def test_open_mesh_is_refused_in_one_line(pair: Pair, flags: list[str], says: str) -> None:
    """A mesh open to everyone is refused at the start."""
    quiet = ("--log-level=warning", "--api-port=0", "--mesh-port=0")
    done = commands.run("node", *pair.flags, *quiet, *flags)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr
