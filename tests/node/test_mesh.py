"""Nodes meet over real sockets, and strangers stay outside."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pynng
import pytest
import trio
import trustme
from trio.testing import trio_test

from node.errors import StartupError
from node.mesh import seeds
from node.mesh.guests import STRANGERS
from node.mesh.identity import Identity, kept_node_id, next_identity
from node.mesh.membership import Membership
from node.mesh.mesh import Mesh, open_mesh
from node.mesh.messages import MESSAGE_BYTES, PAYLOAD_BYTES, Message
from node.mesh.options import MeshOptions, read_options
from node.mesh.seal import Refused, Seal
from node.mesh.transport import Tls
from node.settings import NodeSettings
from shared.events.event import Event
from shared.events.mesh import MessagesMoved, NetworkFailed, PeerAnswered, PeerChanged, PeersCounted
from tests.guards import strict_guard
from tests.node.mesh_network import SECRET, advert

LIMIT_SECONDS = 30.0
TLS_NAME = "mesh.distributed-llm"
OFFER = b"what a node offers"
REFUSALS = ("unauthenticated", "stale", "malformed", "incompatible", "conflict", "overflow")


class Nodes:
    """Meshes in this process; the test enters each of them."""

    def __init__(self, stack: AsyncExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.events: dict[str, list[Event]] = {}

    async def start(
        self,
        node_id: str,
        resolve: seeds.Resolve = seeds.resolve,
        payload: bytes = OFFER,
        **options: Any,
    ) -> Mesh:
        given: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "secrets": (SECRET,)} | options
        told = self.events.setdefault(node_id, [])
        mesh = Mesh(lambda: ("online", payload), told.append)
        full = MeshOptions(node_id=node_id, software="1", state_dir=self._directory, **given)
        await self._stack.enter_async_context(open_mesh(mesh, full, strict_guard(), resolve))
        return mesh

    def answers(self, node_id: str, peer: str) -> int:
        """Return how often a peer has answered a node."""
        told = self.events[node_id]
        return sum(isinstance(each, PeerAnswered) and each.peer == peer for each in told)

    def failed(self, node_id: str) -> Counter[str]:
        """Return the number of messages that a node refused, by reason."""
        found: Counter[str] = Counter()
        for event in self.events[node_id]:
            if isinstance(event, NetworkFailed):
                found[event.reason] += event.count
        return found


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Nodes]:
    with trio.fail_after(LIMIT_SECONDS):
        async with AsyncExitStack() as stack:
            yield Nodes(stack, directory)


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition depends on threads of other libraries
        await trio.sleep(0.02)


def states(mesh: Mesh) -> dict[str, str]:
    return {peer.node_id: peer.state for peer in mesh.peers()}


@trio_test
async def test_nodes_find_each_other_by_one_seed(tmp_path: Path) -> None:
    """Three nodes, of which two know the first, all know each other with their adverts."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        second = await nodes.start("b", seeds=(first.address,))
        third = await nodes.start("c", seeds=(first.address,))
        meshes = (first, second, third)
        await wait_until(lambda: all(list(states(m).values()) == ["alive"] * 2 for m in meshes))
        heard = {peer.node_id: peer for peer in third.peers()}
        assert heard["b"].address == second.address
        assert heard["b"].advert is not None
        assert heard["b"].advert.addresses == (second.address,)
        assert heard["b"].advert.payload == OFFER
        await wait_until(lambda: PeersCounted(2, 0) in nodes.events["a"])
    told = nodes.events["a"]
    assert PeerChanged("b", "alive", "online") in told
    assert any(isinstance(e, PeerAnswered) and 0 < e.seconds < 5 for e in told)
    moved = {(e.direction, e.message_type) for e in told if isinstance(e, MessagesMoved)}
    assert {("sent", "survey"), ("received", "survey"), ("received", "answer")} <= moved
    failed = nodes.failed("a")
    assert {reason: failed[reason] for reason in REFUSALS} == dict.fromkeys(REFUSALS, 0)


@trio_test
async def test_goodbye_reaches_everybody(tmp_path: Path) -> None:
    """A mesh that is closed has left for all its peers."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        async with AsyncExitStack() as stack:
            leaving = Nodes(stack, tmp_path)
            await leaving.start("b", seeds=(first.address,))
            await wait_until(lambda: states(first) == {"b": "alive"})
        await wait_until(lambda: states(first) == {"b": "left"})
        await wait_until(lambda: PeerChanged("b", "left", "online") in nodes.events["a"])


_LOCALHOST = sorted({address[0] for *_, address in socket.getaddrinfo("localhost", 1)})
"""The addresses of the name on this machine, of one family or both."""


@pytest.mark.parametrize(
    ("host", "name"), [*((str(host), "localhost") for host in _LOCALHOST), ("::1", "[::1]")]
)
@trio_test
async def test_seed_is_found_by_both_families(tmp_path: Path, host: str, name: str) -> None:
    """A node is found by name at any of the name's addresses."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a", host=host)
        port = first.address.rpartition(":")[2]
        second = await nodes.start("b", host=host, seeds=(f"{name}:{port}",))
        await wait_until(
            lambda: states(first) == {"b": "alive"} and states(second) == {"a": "alive"}
        )


@trio_test
async def test_name_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up again, so that new addresses lead to new nodes."""
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
async def test_seed_that_cannot_be_dialed_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A seed that cannot be dialed is counted, and other seeds are dialed."""

    async def resolve(host: str, port: int) -> list[str]:
        nonsense = ["nonsense", "10.0.0.1:0", "10.0.0.1:70000", "[fe80::1%eth0]:7", "\0:1", ""]
        return nonsense if host == "a.test" else await seeds.resolve(host, port)

    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        by_both = ("a.test:7", first.address)
        second = await nodes.start("b", resolve, seeds=by_both)
        await wait_until(lambda: states(second) == {"a": "alive"})
        await wait_until(lambda: nodes.failed("b")["lookup"] > 0)
    assert caplog.text.count("cannot resolve the seed a.test:7") == 1


@trio_test
async def test_node_without_the_secret_stays_outside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nodes with different secrets ignore each other; both count it and log the remedy once."""
    async with opened(tmp_path) as nodes:
        inside = await nodes.start("a")
        await nodes.start("b", seeds=(inside.address,), secrets=("something else entirely",))
        await nodes.start("c", seeds=(inside.address,), secrets=())
        await wait_until(lambda: nodes.failed("a")["unauthenticated"] >= 4)
        for name in "bc":
            await wait_until(lambda name=name: nodes.failed(name)["unauthenticated"] > 0)  # type: ignore[misc]
        assert states(inside) == {}
        assert not [e for e in nodes.events["a"] if isinstance(e, PeerChanged)]
    lines = [record.getMessage() for record in caplog.records if "secret" in record.getMessage()]
    told = [f"the node at {inside.address} refuses this node's messages"] * 2
    expected = ["messages from 127.0.0.1 are refused", *told]
    assert sorted(line.partition(": ")[0] for line in lines) == expected
    assert all(line.endswith("give both nodes the same --mesh-secret-file") for line in lines)


@contextmanager
def stranger(mesh: Mesh) -> Iterator[pynng.Surveyor0]:
    """Yield a connection that sends what the test chooses."""
    url = f"tcp://{mesh.address}"
    with pynng.Surveyor0(dial=url, block_on_dial=True, recv_timeout=30_000) as surveyor:
        surveyor.survey_time = 30_000
        yield surveyor


def survey(sequence: int = 1, *, sent_at: float, node_id: str = "x") -> Message:
    """Return a survey."""
    members = Membership(Identity(node_id, 1, 7, "1"), [], 8)
    asked = members.survey(advert(), 0.0, sent_at, b"nonce")
    return msgspec.structs.replace(asked, sequence=sequence)


@trio_test
async def test_node_with_another_clock_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nodes whose clocks are too far apart both log that."""
    there = time.time() - 3600
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        with stranger(first) as surveyor:
            surveyor.send(Seal([SECRET]).sign(survey(1, sent_at=there)))
            answer = await trio.to_thread.run_sync(surveyor.recv)
            for sequence in (2, 3):
                surveyor.send(Seal([SECRET]).sign(survey(sequence, sent_at=there)))
            await wait_until(lambda: nodes.failed("a")["stale"] == 3)
    found = Seal([SECRET]).open_answer(answer, there, b"nonce")
    assert isinstance(found, Refused)
    assert (found.reason, found.head and found.head.node_id) == ("stale", "a")
    assert caplog.text.count("messages of node x from 127.0.0.1 are refused") == 1
    assert "its clock is -3600 s from this node's: set both clocks" in caplog.text


@trio_test
async def test_connections_of_strangers_are_bounded(tmp_path: Path) -> None:
    """Idle connections of strangers make room for new ones, and a node still gets in."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        strangers = [socket.create_connection(_pair(first.address)) for _ in range(STRANGERS + 40)]
        for each in strangers:
            each.sendall(SURVEYOR_HEADER)
        second = await nodes.start("b", seeds=(first.address,))
        await wait_until(lambda: nodes.failed("a")["overflow"] >= 40)
        await wait_until(lambda: states(first) == {"b": "alive"})
        await wait_until(lambda: states(second) == {"a": "alive"})
        closed = await trio.to_thread.run_sync(_count_closed, strangers)
        assert 40 <= closed <= 41  # the node itself was a stranger, too
        for each in strangers:
            each.close()


SURVEYOR_HEADER = b"\0SP\0\0\x62\0\0"
RESPONDENT_HEADER = b"\0SP\0\0\x63\0\0"
"""The first bytes of each side over TCP (the mapping of SP to TCP, protocols 98 and 99)."""


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _count_closed(connections: list[socket.socket]) -> int:
    closed = 0
    for each in connections:
        each.settimeout(0.05)
        try:
            while each.recv(64):
                pass
            closed += 1
        except TimeoutError:
            pass
        except ConnectionResetError:
            closed += 1
    return closed


@trio_test
async def test_flood_of_a_stranger_is_cut(tmp_path: Path) -> None:
    """A connection with one refused message after another is closed, and the mesh goes on."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        second = await nodes.start("b", seeds=(first.address,))
        await wait_until(lambda: states(first) == {"b": "alive"})
        with stranger(first) as surveyor:
            while not nodes.failed("a")["overflow"]:
                surveyor.send(b"x" * 2000)
                await trio.sleep(0.001)
        seen = nodes.answers("a", "b")
        await wait_until(lambda: nodes.answers("a", "b") > seen + 1)
        assert states(first) == {"b": "alive"}
        assert states(second) == {"a": "alive"}


@trio_test
async def test_second_answer_to_a_survey_is_not_read(tmp_path: Path) -> None:
    """A second answer of a peer to the same survey is not read."""
    async with trio.open_nursery() as nursery, opened(tmp_path) as nodes:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _answer_often, [listener])
        host, port = listener.socket.getsockname()
        await nodes.start("a", seeds=(f"{host}:{port}",))
        await wait_until(lambda: nodes.failed("a")["overflow"] >= 20)
        assert nodes.failed("a")["unauthenticated"] > 0
        assert nodes.failed("a")["overflow"] > 5 * nodes.failed("a")["unauthenticated"]
        nursery.cancel_scope.cancel()


async def _answer_often(stream: trio.SocketStream) -> None:
    """Answer each survey ten times, which nng never does."""
    with contextlib.suppress(trio.BrokenResourceError):  # the node may hang up
        await stream.send_all(RESPONDENT_HEADER)
        received = b""
        async for data in stream:
            received += data
            if received[:8] == SURVEYOR_HEADER:
                received = received[8:]
            while len(received) >= 8 and len(received) >= (end := 8 + int.from_bytes(received[:8])):
                survey_id, received = received[8:12], received[end:]
                answer = survey_id + b"x" * 100
                await stream.send_all((len(answer).to_bytes(8) + answer) * 10)


@trio_test
async def test_noise_on_the_port_does_no_harm(tmp_path: Path) -> None:
    """Noise on the port is counted, and the mesh goes on."""
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
            await wait_until(lambda: nodes.failed("a")["unauthenticated"] > 10)
            await wait_until(lambda: nodes.failed("a")["malformed"] > 0)
        await wait_until(
            lambda: states(first) == {"b": "alive"} and states(second) == {"a": "alive"}
        )


@trio_test
async def test_two_nodes_of_one_name_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two nodes with one name are reported by all nodes, including themselves."""
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
    """With TLS both sides need a certificate of the CA, and the dialed side one for its name."""
    authority, stranger = trustme.CA(), trustme.CA()
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a", tls=tls_files(tmp_path / "a", authority, TLS_NAME))
        by_seed: dict[str, Any] = {"seeds": (first.address,)}
        outside = [
            await nodes.start("c", tls=tls_files(tmp_path / "c", stranger, TLS_NAME), **by_seed),
            await nodes.start("e", **by_seed),
        ]
        misnamed = await nodes.start(
            "d", tls=tls_files(tmp_path / "d", authority, "other.name"), **by_seed
        )
        await nodes.start("b", tls=tls_files(tmp_path / "b", authority, TLS_NAME), **by_seed)
        # The last node has joined, so the others had their chance, and three rounds.
        await wait_until(lambda: states(misnamed) == {"a": "alive", "b": "alive"})
        await wait_until(lambda: nodes.answers("a", "b") >= 3)
        assert states(first) == {"b": "alive"}
        assert [states(mesh) for mesh in outside] == [{}, {}]


@trio_test
async def test_taken_port_is_one_line(tmp_path: Path) -> None:
    """A port in use is reported with the flag that changes it."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(StartupError, match=f"port {port} .*--mesh-port"):
            await nodes.start("b", port=port)


def test_incarnation_rises_with_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start has a higher incarnation, by clock and disk or by either alone."""
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
    """A given name is used; otherwise a node keeps the host name of its first start."""
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
    """Without a secret the mesh listens on loopback only."""
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef\n")
    assert options_of().host == "127.0.0.1"
    assert options_of("--host=0.0.0.0").host == "127.0.0.1"  # an API for all, without a mesh
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
    [
        (None, "cannot be read"),
        ("# none\n", "contains no secret"),
        ("short\n", "has 5 characters; it needs at least 16"),
    ],
)
def test_unusable_secret_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    """An unusable secret is refused at the start and not shown."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartupError, match=says) as caught:
        options_of(f"--mesh-secret-file={file}")
    assert "short" not in str(caught.value)


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    """Mesh TLS without the key or without the CA is refused."""
    file = tmp_path / "cert"
    with pytest.raises(StartupError, match="needs all of"):
        options_of(f"--mesh-tls-cert-file={file}")


def test_advertised_name_is_refused() -> None:
    """An advertised address must be an IP address: peers do not look up names."""
    with pytest.raises(StartupError, match="--mesh-advertise example"):
        options_of("--mesh-advertise=example.org:1")
    assert options_of("--mesh-advertise=192.0.2.7:7946").advertised == ("192.0.2.7:7946",)


@trio_test
async def test_payload_that_is_too_long_stays_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node whose payload is too long stays a member, with an empty payload."""
    async with opened(tmp_path) as nodes:
        first = await nodes.start("a")
        too_long = b"x" * (PAYLOAD_BYTES + 1)
        await nodes.start("b", payload=too_long, seeds=(first.address,))
        await wait_until(lambda: nodes.failed("b")["oversize"] > 0)
        await wait_until(lambda: [p.advert and p.advert.payload for p in first.peers()] == [b""])
        assert states(first) == {"b": "alive"}
    assert caplog.text.count("is sent without its payload") == 1
