"""Nodes meet over real sockets, and who does not belong stays outside."""

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pynng
import pytest
import trio
import trustme
from trio.testing import trio_test

from node.errors import StartupError
from node.mesh import seeds
from node.mesh.identity import kept_node_id, next_identity
from node.mesh.mesh import Mesh, open_mesh
from node.mesh.messages import MESSAGE_BYTES
from node.mesh.options import read_options
from node.mesh.rounds import MeshOptions
from node.mesh.seal import Seal
from node.mesh.transport import Tls
from node.settings import NodeSettings
from shared import events
from shared.events import Event
from tests.node.mesh_network import SECRET, advert

LIMIT_SECONDS = 30.0
TLS_NAME = "mesh.distributed-llm"


class Nodes:
    """Meshes of this process; each is entered as the test wants it."""

    def __init__(self, stack: AsyncExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.events: dict[str, list[Event]] = {}

    async def start(
        self, node_id: str, resolve: seeds.Resolve = seeds.resolve, **options: Any
    ) -> Mesh:
        given: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "secrets": (SECRET,)} | options
        told = self.events.setdefault(node_id, [])
        mesh = Mesh(lambda: advert("unused:1"), told.append)
        full = MeshOptions(node_id=node_id, software="1", state_dir=self._directory, **given)
        await self._stack.enter_async_context(open_mesh(mesh, full, resolve))
        return mesh

    def failed(self, node_id: str) -> Counter[str]:
        """Count what a node refused, by reason."""
        found: Counter[str] = Counter()
        for event in self.events[node_id]:
            if isinstance(event, events.NetworkFailed):
                found[event.reason] += event.count
        return found


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Nodes]:
    with trio.fail_after(LIMIT_SECONDS):
        async with AsyncExitStack() as stack:
            yield Nodes(stack, directory)


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens on other libraries' threads
        await trio.sleep(0.02)


def states(mesh: Mesh) -> dict[str, str]:
    return {peer.node_id: peer.state for peer in mesh.peers()}


@trio_test
async def test_nodes_find_each_other_by_one_seed(tmp_path: Path) -> None:
    """Three nodes of which two know the first one all know each other, with their adverts."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        second = await nodes.start("b", seeds=(first.address,))
        third = await nodes.start("c", seeds=(first.address,))
        meshes = (first, second, third)
        await wait_until(lambda: all(len(mesh.living()) == 2 for mesh in meshes))
        heard = {peer.node_id: peer for peer in third.living()}
        assert heard["b"].address == second.address
        assert heard["b"].advert is not None
        assert heard["b"].advert.addresses == (second.address,)
        await wait_until(lambda: events.PeersCounted(2, 0) in nodes.events["a"])
    told = nodes.events["a"]
    assert events.PeerChanged("b", "alive", "online") in told
    assert any(isinstance(e, events.PeerAnswered) and 0 < e.seconds < 5 for e in told)
    moved = {(e.direction, e.message_type) for e in told if isinstance(e, events.MessagesMoved)}
    assert {("sent", "survey"), ("received", "survey"), ("received", "answer")} <= moved
    assert set(nodes.failed("a")) <= {"connection", "timeout"}


@trio_test
async def test_goodbye_reaches_everybody(tmp_path: Path) -> None:
    """A mesh that is closed has left, in the eyes of all."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        async with AsyncExitStack() as stack:
            leaving = Nodes(stack, tmp_path)
            await leaving.start("b", seeds=(first.address,))
            await wait_until(lambda: states(first) == {"b": "alive"})
        assert states(first) == {"b": "left"}
        await wait_until(lambda: events.PeerChanged("b", "left", "online") in nodes.events["a"])


_LOCALHOST = sorted({address[0] for *_, address in socket.getaddrinfo("localhost", 1)})
"""What the name stands for on this machine: one family's address or both."""


@pytest.mark.parametrize(
    ("host", "name"), [*((str(host), "localhost") for host in _LOCALHOST), ("::1", "[::1]")]
)
@trio_test
async def test_seed_is_found_by_both_families(tmp_path: Path, host: str, name: str) -> None:
    """A name leads to a node whichever of its addresses it listens on."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a", host=host)
        port = first.address.rpartition(":")[2]
        second = await nodes.start("b", host=host, seeds=(f"{name}:{port}",))
        await wait_until(
            lambda: states(first) == {"b": "alive"} and states(second) == {"a": "alive"}
        )


@trio_test
async def test_name_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose addresses change leads to nodes that were not there before."""
    monkeypatch.setattr(seeds, "LOOKUP_SECONDS", 0.2)
    stands_for: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("nodes.test", 7)
        await trio.lowlevel.checkpoint()
        if not stands_for:
            raise OSError("no such name")
        return stands_for

    async with opened(tmp_path) as nodes:
        first = await nodes.start("a", resolve, seeds=("nodes.test:7",))
        await wait_until(lambda: nodes.failed("a")["lookup"] > 0)
        others = [await nodes.start(name) for name in "bc"]
        stands_for += [other.address for other in others] + [first.address]
        await wait_until(lambda: states(first) == {"b": "alive", "c": "alive"})


@trio_test
async def test_seed_that_cannot_be_dialed_is_counted(tmp_path: Path) -> None:
    """Whatever a name stands for, the node goes on, and other seeds lead somewhere."""

    async def resolve(host: str, port: int) -> list[str]:
        return ["nonsense"] if host == "a.test" else await seeds.resolve(host, port)

    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        by_both = ("a.test:7", first.address)
        second = await nodes.start("b", resolve, seeds=by_both)
        await wait_until(lambda: states(second) == {"a": "alive"})
        await wait_until(lambda: nodes.failed("b")["connection"] > 0)


@trio_test
async def test_node_without_the_secret_stays_outside(tmp_path: Path) -> None:
    """Neither side takes a word of the other, and both count it."""
    async with opened(tmp_path) as nodes:
        inside = await nodes.start("a")
        await nodes.start("b", seeds=(inside.address,), secrets=("something else entirely",))
        await nodes.start("c", seeds=(inside.address,), secrets=())
        await wait_until(lambda: nodes.failed("a")["unauthenticated"] >= 4)
        assert states(inside) == {}
        assert not [e for e in nodes.events["a"] if isinstance(e, events.PeerChanged)]


@trio_test
async def test_noise_on_the_port_does_no_harm(tmp_path: Path) -> None:
    """Strangers may send what they like: it is counted, and the mesh goes on."""
    noise = [b"", b"\xc1", b"x" * 31, b"x" * 5000, Seal().sign([]), b"\x9b" * 40]  # type: ignore[arg-type]
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        second = await nodes.start("b", seeds=(first.address,))
        with pynng.Surveyor0(dial=f"tcp://{first.address}", block_on_dial=True) as stranger:
            for _ in range(20):
                for message in noise:
                    stranger.send(message)
                    await trio.sleep(0.001)
            stranger.send(b"x" * (MESSAGE_BYTES + 1))
            await wait_until(lambda: nodes.failed("a").total() > 20)
        await wait_until(
            lambda: states(first) == {"b": "alive"} and states(second) == {"a": "alive"}
        )


@trio_test
async def test_two_nodes_of_one_name_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody who meets two nodes of one name says so, they themselves too."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        for _ in range(2):
            await nodes.start("b", seeds=(first.address,))
        await wait_until(lambda: nodes.failed("a")["conflict"] > 0)
        await wait_until(lambda: nodes.failed("b")["conflict"] > 0)
    assert "two nodes are named b" in caplog.text


def tls_files(directory: Path, authority: trustme.CA, name: str) -> Tls:
    directory.mkdir()
    pair = authority.issue_cert(name)
    files = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    files[0].write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    files[1].write_bytes(pair.private_key_pem.bytes())
    files[2].write_bytes(authority.cert_pem.bytes())
    return Tls(*files, TLS_NAME)


@trio_test
async def test_tls_lets_in_whom_the_authority_signed(tmp_path: Path) -> None:
    """With TLS both sides show a certificate: of this authority and of this name."""
    authority, stranger = trustme.CA(), trustme.CA()
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a", tls=tls_files(tmp_path / "a", authority, TLS_NAME))
        by_seed: dict[str, Any] = {"seeds": (first.address,)}
        await nodes.start("b", tls=tls_files(tmp_path / "b", authority, TLS_NAME), **by_seed)
        for name, signer, written in (
            ("c", stranger, TLS_NAME),
            ("d", authority, "other.name"),
        ):
            files = tls_files(tmp_path / name, signer, written)
            await nodes.start(name, tls=files, **by_seed)
        await nodes.start("e", **by_seed)
        await wait_until(lambda: states(first) == {"b": "alive"})
        await trio.sleep(1)
        assert states(first).keys() <= {"b", "d"}


@trio_test
async def test_taken_port_is_one_line(tmp_path: Path) -> None:
    """A port in use is named with the flag that changes it."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(StartupError, match=f"port {port} .*--mesh-port"):
            await nodes.start("b", port=port)


def test_incarnation_rises_with_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a node are told apart by clock and by disk, and by either alone."""
    first = next_identity("a", tmp_path / "state", "1")
    second = next_identity("a", tmp_path / "state", "1")
    assert second.incarnation > first.incarnation
    assert second.session != first.session
    monkeypatch.setattr("time.time", lambda: 1000.0)  # a clock that was set back
    assert next_identity("a", tmp_path / "state", "1").incarnation > second.incarnation
    assert next_identity("a", Path("/dev/null/state"), "1").incarnation == 1000  # no disk
    (tmp_path / "state" / "mesh-incarnation-a").write_text("nonsense")
    assert next_identity("a", tmp_path / "state", "1").incarnation == 1000


def options_of(*flags: str) -> MeshOptions:
    return read_options(NodeSettings.read("node", flags, ""), "1")


def test_node_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is given counts; else the first one of the host, however it is called later."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Rack 7_.")
    assert kept_node_id("given", tmp_path / "state") == "given"
    assert kept_node_id("", tmp_path / "state") == "Rack-7"
    monkeypatch.setattr(socket, "gethostname", lambda: "other")
    assert kept_node_id("", tmp_path / "state") == "Rack-7"
    assert kept_node_id("given", tmp_path / "state") == "given"
    assert kept_node_id("", Path("/dev/null/state")) == "other"  # no disk
    (tmp_path / "state" / "node-id").write_text("no name!")
    assert kept_node_id("", tmp_path / "state") == "other"
    monkeypatch.setattr(socket, "gethostname", lambda: "...")
    assert kept_node_id("", tmp_path / "new") == "node"


def test_mesh_without_secret_stays_on_loopback(tmp_path: Path) -> None:
    """Only a node that has a secret listens for other machines."""
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef\n")
    assert options_of().host == "127.0.0.1"
    assert options_of("--host=0.0.0.0").host == "127.0.0.1"  # an API for all, and no mesh
    assert options_of("--host=::1", "--seed-nodes=[::1]:7946").host == "::1"
    assert options_of("--host=0.0.0.0", f"--mesh-secret-file={file}").host == "0.0.0.0"  # noqa: S104
    for flags in (
        ["--mesh-host=0.0.0.0"],
        ["--mesh-host=192.0.2.1", "--host=127.0.0.1"],
        ["--host=0.0.0.0", "--seed-nodes=a:1"],
    ):
        with pytest.raises(StartupError, match=r"without a secret .* --mesh-secret-file"):
            options_of(*flags)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("# none\n", "no secret"), ("short\n", "less than 16 characters")],
)
def test_unusable_secret_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    """A secret that is none must not open the mesh; its text is not told."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartupError, match=says) as caught:
        options_of(f"--mesh-secret-file={file}")
    assert "short" not in str(caught.value)


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    """A certificate without its key, or without an authority, protects nobody."""
    file = tmp_path / "cert"
    with pytest.raises(StartupError, match="needs all of"):
        options_of(f"--mesh-tls-cert-file={file}")


def test_advertised_name_is_refused() -> None:
    """Peers dial addresses, they look up no names that another node gives."""
    with pytest.raises(StartupError, match="--mesh-advertise example"):
        options_of("--mesh-advertise=example.org:1")
    assert options_of("--mesh-advertise=192.0.2.7:7946").advertised == ("192.0.2.7:7946",)
