"""Nodes agree on their members on a network that loses, delays, doubles and cuts messages."""

import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.mesh.identity import Identity
from node.mesh.membership import Membership
from node.mesh.messages import PROTOCOL, Contact, Head
from node.mesh.peer_table import Change
from tests.node.mesh_network import Network, Node, address_of, advert

JOIN_SECONDS = 2.0


def start_all(network: Network, count: int) -> list[Node]:
    """Start nodes that all know the first one."""
    first = address_of(0)
    return [network.start(f"n{i}", address_of(i), *([first] if i else [])) for i in range(count)]


def living(nodes: Iterable[Node]) -> set[tuple[str, ...]]:
    """Return the different views of who is alive, including the viewer."""
    return {
        tuple(sorted([n.node_id, *(p for p, s in n.states().items() if s == "alive")]))
        for n in nodes
    }


def states_told(node: Node, peer: str) -> list[str | None]:
    """Return the states that a node reported of a peer, in order."""
    return [change.after for _, change in node.changes if change.node_id == peer]


def test_nodes_that_know_one_seed_know_each_other_soon() -> None:
    """Ten nodes with one seed all know each other within two seconds."""
    network = Network()
    nodes = start_all(network, 10)
    network.run(JOIN_SECONDS)
    assert living(nodes) == {tuple(f"n{i}" for i in range(10))}


def test_killed_peer_is_dead_within_two_seconds() -> None:
    """A peer whose connection breaks for good is dead for every node within two seconds."""
    network = Network()
    *rest, victim = start_all(network, 6)
    network.run(5)
    killed_at = network.now
    network.kill(victim)
    network.run(2.0)
    for node in rest:
        assert node.states()["n5"] == "dead"
        assert states_told(node, "n5") == ["alive", "suspect", "dead"]
        assert node.changes[-1][0] - killed_at < 1.5


def test_frozen_peer_is_dead_within_three_seconds_and_back_after() -> None:
    """A silent peer is dead within three seconds, and alive again when it speaks."""
    network = Network()
    *rest, victim = start_all(network, 6)
    network.run(5)
    network.stop(victim)
    network.run(2.9)
    assert {node.states()["n5"] for node in rest} == {"dead"}
    network.run(20)
    network.resume(victim)
    network.run(2.5)
    assert living([*rest, victim]) == {tuple(f"n{i}" for i in range(6))}
    # What it missed does not count against the others: it was the one that slept.
    assert all("dead" not in states_told(victim, node.node_id) for node in rest)


def test_round_of_a_large_mesh_is_longer_and_its_waits_with_it() -> None:
    """Above 32 peers a round is longer, and so is the wait for a silent peer."""
    network = Network()
    nodes = start_all(network, 49)
    network.run(8)
    assert {node.membership.table.round_seconds for node in nodes} == {48 / 32}
    *rest, victim = nodes
    network.stop(victim)
    network.run(1.5)
    assert all(node.states()["n48"] in ("alive", "suspect") for node in rest)
    network.run(1.5)
    assert {node.states()["n48"] for node in rest} == {"dead"}
    assert {node.membership.table.round_seconds for node in rest} == {48 / 32}  # it may be back


def test_mesh_that_shrinks_at_once_blames_nobody_who_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When many peers leave and rounds become shorter, no peer that stays is declared dead."""
    monkeypatch.setattr("node.mesh.peer_table._PEERS_PER_SECOND", 4)  # for a small test
    network = Network()
    nodes = start_all(network, 25)
    network.run(20)
    assert {node.membership.table.round_seconds for node in nodes} == {24 / 4}
    rest, lost = nodes[:5], nodes[5:]
    for node in lost:
        network.leave(node)
    network.run(5)
    assert {node.membership.table.round_seconds for node in rest} == {1.0}
    assert living(rest) == {tuple(f"n{i}" for i in range(5))}
    names = {node.node_id for node in rest}
    for node in rest:
        told = [change.after for _, change in node.changes if change.node_id in names]
        assert told == ["alive"] * 4


@pytest.mark.parametrize("number", [0, 5])
def test_peer_that_leaves_is_gone_at_once(number: int) -> None:
    """A goodbye is not a death, also for a seed, which is still dialed."""
    network = Network()
    rest = start_all(network, 6)
    leaver = rest.pop(number)
    network.run(5)
    network.leave(leaver)
    network.run(0.5)
    assert {node.states()[leaver.node_id] for node in rest} == {"left"}
    network.run(70)
    assert all(leaver.node_id not in node.states() for node in rest)
    assert all(states_told(node, leaver.node_id) == ["alive", "left", None] for node in rest)


@pytest.mark.parametrize("address", [address_of(3), address_of(9)])
def test_restarted_node_leaves_no_ghost(address: str) -> None:
    """A restarted node replaces its earlier run, on any address."""
    network = Network()
    nodes = start_all(network, 4)
    network.run(5)
    network.kill(nodes[3])
    network.run(0.3)
    again = network.start("n3", address, address_of(0))
    network.run(4)
    everyone = [*nodes[:3], again]
    assert living(everyone) == {("n0", "n1", "n2", "n3")}
    for node in nodes[:3]:
        assert [p.incarnation for p in node.membership.table.views(0) if p.node_id == "n3"] == [
            again.membership.me.incarnation
        ]
        assert node.dialed.keys() == {n.address for n in everyone} - {node.address}


def test_late_node_declares_nobody_dead() -> None:
    """A node whose own loop was blocked for ten seconds waits again for all others."""
    network = Network()
    nodes = start_all(network, 5)
    network.run(5)
    sleeper = nodes[2]
    network.stop(sleeper)
    network.run(10)
    before = len(sleeper.changes)
    network.resume(sleeper)
    network.run(3)
    assert [c for _, c in sleeper.changes[before:] if c.after in ("suspect", "dead")] == []


def test_peer_that_says_that_it_is_late_is_waited_for() -> None:
    """A peer that reports a saturated loop is waited for longer; others are not."""
    late, prompt = (Membership(Identity(f"n{i}", 1, i, "1"), [], 8) for i in (1, 2))
    watcher = Membership(Identity("n0", 1, 0, "1"), [], 8)
    for i, (peer, lag) in enumerate(((late, 1.5), (prompt, 0.0))):
        own = advert(address_of(i + 1), lag_seconds=lag)
        asked = watcher.survey(advert(), 0, 0, b"n")
        answer = peer.take_survey(asked, own, 0, 0, repeated=False)
        watcher.take_answer(answer, address_of(i + 1), 0.0, 0.01)
    for step in range(1, 29):
        watcher.tick(step / 10, 0.0)
    states = {view.node_id: view.state for view in watcher.table.views(2.8)}
    assert states == {"n1": "alive", "n2": "dead"}


def test_partition_heals_without_ghosts() -> None:
    """Both halves of a partition go on, and merge when it ends."""
    network = Network()
    nodes = start_all(network, 8)
    half = {node.address for node in nodes[:4]}
    network.run(5)
    network.cut = lambda a, b: (a in half) != (b in half)
    network.run(6)
    assert living(nodes[:4]) == {("n0", "n1", "n2", "n3")}
    assert living(nodes[4:]) == {("n4", "n5", "n6", "n7")}
    network.cut = lambda _a, _b: False
    network.run(3)
    assert living(nodes) == {tuple(f"n{i}" for i in range(8))}


def test_two_nodes_of_one_name_are_told_and_do_not_flap() -> None:
    """Two nodes with one name: the later one counts, all report it, and the states do not flap."""
    network = Network()
    nodes = start_all(network, 3)
    network.run(3)
    double = network.start("n2", address_of(7), address_of(0))
    network.run(20)
    for node in (nodes[0], nodes[1]):
        assert "conflict" in {trouble.reason for trouble in node.troubles}
        held = next(p for p in node.membership.table.views(0) if p.node_id == "n2")
        assert held.incarnation == double.membership.me.incarnation
        assert states_told(node, "n2") == ["alive", "alive"]
        assert len(node.troubles) == 1  # once a minute


def test_node_recognises_itself() -> None:
    """A node that is its own seed is not its peer and is not dialed again."""
    network = Network()
    node = network.start("n0", address_of(0), address_of(5))
    network.nodes[address_of(5)] = node  # reached by another address as well
    network.run(3)
    assert node.states() == {}
    assert node.dialed == {}
    assert node.troubles == []


def test_peer_with_two_addresses_is_asked_at_one() -> None:
    """A peer with several addresses has one connection."""
    network = Network()
    node = network.start("n0", address_of(0))
    network.nodes[address_of(5)] = node
    other = network.start("n1", address_of(1), address_of(0), address_of(5))
    network.run(5)
    assert other.states() == {"n0": "alive"}
    assert len(other.dialed) == 1


def test_table_is_bounded() -> None:
    """At its limit a node accepts no more peers, says so, and keeps those that it has."""
    network = Network()
    small = network.start("n0", address_of(0), limit=3)
    for i in range(1, 8):
        network.start(f"n{i}", address_of(i), address_of(0))
    network.run(5)
    assert len(small.states()) == 3
    assert {trouble.reason for trouble in small.troubles} == {"overflow"}


def test_gone_peer_makes_room_for_a_new_one() -> None:
    """Dead peers are forgotten first."""
    network = Network()
    small = network.start("n0", address_of(0), limit=2)
    for i in (1, 2):
        network.start(f"n{i}", address_of(i), address_of(0))
    network.run(3)
    network.kill(network.nodes[address_of(1)])
    network.run(3)
    network.start("n3", address_of(3), address_of(0))
    network.run(3)
    assert small.states() == {"n2": "alive", "n3": "alive"}


def test_other_protocol_is_listed_and_forgotten() -> None:
    """A node of another protocol is listed but is not a member, and is forgotten when silent."""
    membership = Membership(Identity("n0", 1, 1, "1"), [], 8)
    membership.take_incompatible(Head(PROTOCOL + 1, "old", "0.0.1", 0.0), 1.0)
    assert [(p.node_id, p.state, p.software) for p in membership.table.views(1.0)] == [
        ("old", "incompatible", "0.0.1")
    ]
    assert membership.table.wanted() == set()
    membership.tick(40.0, 0.0)
    assert membership.table.views(40.0) == []


def test_hint_makes_nobody_alive() -> None:
    """Gossip and copied surveys cause a question; only an answer proves life."""
    membership = Membership(Identity("n0", 1, 1, "1"), [], 8)
    ghost = Contact("ghost", 7, (address_of(8),))
    gossip = Membership(Identity("n1", 1, 2, "1"), [], 8).survey(advert(address_of(1)), 0, 0, b"n")
    told = msgspec.structs.replace(gossip, contacts=(ghost,))
    membership.take_survey(told, advert(), 0.0, 0.0, repeated=False)
    assert membership.table.views(0.0) == []
    assert membership.table.wanted() == {address_of(1), address_of(8)}
    membership.tick(30.0, 0.0)
    assert membership.table.wanted() == set()


def test_survey_of_a_dead_peer_brings_it_not_back() -> None:
    """A survey of a dead peer does not revive it: it may have been delayed."""
    members = Membership(Identity("n0", 1, 1, "1"), [], 8)
    other = Membership(Identity("n1", 1, 2, "1"), [], 8)
    own = advert(address_of(1))
    asked = members.survey(advert(), 0.0, 0.0, b"n")
    answer = other.take_survey(asked, own, 0.0, 0.0, repeated=False)
    members.take_answer(answer, address_of(1), 0.0, 0.01)
    for step in range(1, 40):
        members.tick(step / 10, 0.0)
    members.take_survey(other.survey(own, 0, 0, b"m"), advert(), 4.0, 0.0, repeated=False)
    assert [view.state for view in members.table.views(4.0)] == ["dead"]
    assert members.table.wanted() == {address_of(1)}
    members.take_answer(answer, address_of(1), 4.1, 0.01)
    assert [view.state for view in members.table.views(4.1)] == ["alive"]


def test_name_is_not_an_address() -> None:
    """An address from a peer that is a name is not dialed or looked up."""
    membership = Membership(Identity("n0", 1, 1, "1"), [], 8)
    other = Membership(Identity("n1", 1, 2, "1"), [], 8)
    for nonsense in ("example.org:80", "10.0.0.1:99999", "10.0.0.1", "fe80::1%eth0:1", "[::1:1"):
        asked = other.survey(advert(nonsense), 0, 0, b"n")
        membership.take_survey(asked, advert(), 0.0, 0.0, repeated=False)
    assert membership.table.wanted() == set()


def test_suspected_node_speaks_up() -> None:
    """A node that is suspected by another one surveys at once, to show that it lives."""
    membership = Membership(Identity("n0", 1, 1, "1"), [], 8)
    membership.survey(advert(), 0, 0, b"n")
    assert not membership.wants_survey
    told = Membership(Identity("n1", 1, 2, "1"), [], 8).survey(advert(), 0, 0, b"n")
    told = msgspec.structs.replace(told, suspects=("n0",))
    membership.take_survey(told, advert(), 0.0, 0.0, repeated=False)
    assert membership.wants_survey


def test_status_of_a_peer_is_told_when_it_changes() -> None:
    """A change of a peer's status is reported once."""
    network = Network()
    nodes = start_all(network, 2)
    network.run(3)
    nodes[1].status = "busy"
    network.run(5)
    assert [c for _, c in nodes[0].changes] == [
        Change("n1", None, "alive"),
        Change("n1", "alive", "alive"),
    ]


@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    doubling=st.sampled_from([0.0, 0.3]),
    delay=st.sampled_from([0.01, 0.3]),
    faults=st.lists(
        st.tuples(
            st.sampled_from(["kill", "restart", "stop", "leave", "cut", "move"]),
            st.integers(0, 5),
            st.floats(0.05, 4.0),
        ),
        max_size=8,
    ),
)
@settings(max_examples=40)
def test_views_converge_after_any_faults(
    seed: int, loss: float, doubling: float, delay: float, faults: list[tuple[str, int, float]]
) -> None:
    """After any faults, all nodes agree on the live peers."""
    network = Network(seed, loss=loss, doubling=doubling, delay=delay)
    nodes: dict[int, Node] = dict(enumerate(start_all(network, 6)))
    network.run(2)
    moments = random.Random(seed)
    for fault, number, seconds in faults:
        _make(network, nodes, fault, number, moments)
        network.run(seconds)
    for node in nodes.values():
        if not node.running:
            network.resume(node)
    network.cut = lambda _a, _b: False
    network.loss = 0.0
    network.run(10)
    everyone = [n for n in nodes.values() if network.nodes.get(n.address) is n]
    assert living(everyone) == ({tuple(sorted(n.node_id for n in everyone))} if everyone else set())
    for node in everyone:
        counted = len(node.changes)
        network.run(5)
        assert node.changes[counted:] == [] or all(
            c.after in (None, "dead", "left") for _, c in node.changes[counted:]
        )


def _make(
    network: Network, nodes: dict[int, Node], fault: str, number: int, moments: random.Random
) -> None:
    node = nodes[number]
    there = network.nodes.get(node.address) is node
    if fault == "cut":
        half = {n.address for n in nodes.values() if moments.random() < 0.5}
        network.cut = lambda a, b: (a in half) != (b in half)
    elif fault == "stop" and there:
        network.stop(node)
    elif fault == "leave" and there and node.running:
        network.leave(node)
        network.run(0.2)
    elif fault in ("kill", "restart", "move"):
        if there:
            network.kill(node)
        if fault != "kill":
            address = node.address if fault == "restart" else address_of(moments.randrange(20, 90))
            seeds = [n.address for n in nodes.values() if network.nodes.get(n.address) is n]
            if address not in network.nodes:
                nodes[number] = network.start(f"n{number}", address, *seeds)


@pytest.mark.parametrize("seed", range(5))
def test_suspect_is_asked_again(seed: int) -> None:
    """A suspect that misses the first question is asked again."""
    network = Network(seed)
    asker, peer = start_all(network, 2)
    network.run(5)
    network.cut = lambda *_: True
    while asker.states()["n1"] == "alive":
        network.run(0.05)
    network.run(0.3)
    network.cut = lambda *_: False
    network.run(2)
    for node, other in ((asker, peer), (peer, asker)):
        assert node.states()[other.node_id] == "alive"
        assert "dead" not in states_told(node, other.node_id)


@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.02]))
@settings(max_examples=15)
def test_lossy_network_makes_nobody_flap(seed: int, loss: float) -> None:
    """If 2% of the messages are lost, no live peer is ever declared dead."""
    network = Network(seed, loss=loss, delay=0.1)
    nodes = start_all(network, 5)
    network.run(60)
    for node in nodes:
        assert "dead" not in {change.after for _, change in node.changes}
