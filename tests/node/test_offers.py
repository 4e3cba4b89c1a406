"""The offers of peers are read once, checked, and never an error of this node."""

import math
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from node import machine
from node.mesh.identity import Identity
from node.mesh.membership import Membership
from node.mesh.mesh import Mesh
from node.mesh.messages import PAYLOAD_BYTES
from node.mesh.peer import PeerView
from node.routing.layer_levels import LayerLevels
from node.routing.offer import (
    LARGEST_AMOUNT,
    LARGEST_COUNT,
    MODELS,
    STAGES,
    Offer,
    OfferedModel,
    OfferedStage,
    UnreadableOfferError,
    check_model,
    pack_offer,
    read_offer,
)
from node.routing.own_offer import OwnOffer
from node.routing.peer_offers import PeerOffers, reachable_url
from node.routing.speed import SpeedMeter
from node.serving.scheduler import Limits, Scheduler
from node.telemetry.status import NodeStatus
from shared.events.event import Event
from shared.events.mesh import NetworkFailed, PeerPage
from shared.events.models import LayersPlanned
from shared.events.node import NodeState
from tests.node.mesh_network import address_of, advert, anything


class KnownMesh(Mesh):
    """A mesh whose peers have sent the adverts of the test, on a real membership."""

    def __init__(self) -> None:
        super().__init__(lambda: ("online", pack_offer(offer())), lambda _: None)
        self.membership = Membership(Identity("n0", 1, 1, "1"), [], 300)

    def hear(self, node_id: str, payload: bytes, status: NodeState = "online") -> None:
        number = int(node_id[1:])
        asked = self.membership.survey(advert(), 0.0, 0.0, b"n")
        said = msgspec.structs.replace(advert(address_of(number), status), payload=payload)
        peer = Membership(Identity(node_id, 1, number, "1"), [], 8)
        answer = peer.take_survey(asked, said, 0.0, 0.0, repeated=False)
        assert self.membership.take_answer(answer, address_of(number), 0.0, 0.01)

    def peers(self) -> list[PeerView]:
        return self.membership.table.views(0.0)


def offer(**changed: Any) -> Offer:
    model = OfferedModel("m", "ready", 6, 2**20, 64, 512, 0, 1, 1, 2, "f1")
    sound = Offer("http://0.0.0.0:8080", "e", 2.0, 2**33, 8, 1e9, (model,))
    return msgspec.structs.replace(sound, **changed)


def readers() -> tuple[KnownMesh, PeerOffers, list[Event]]:
    mesh, told = KnownMesh(), list[Event]()
    return mesh, PeerOffers(mesh, told.append), told


def test_offer_of_a_peer_is_what_the_router_gets() -> None:
    """A peer that serves is found by its model, at its address in the mesh."""
    mesh, peers, told = readers()
    mesh.hear("n1", pack_offer(offer()))
    [found] = peers.find("m")
    assert (found.node_id, found.url) == ("n1", "http://10.0.0.2:8080")
    assert (found.loaded, found.in_flight, found.slots, found.fingerprint) == (True, 1, 2, "f1")
    assert peers.models() == {"m"}
    assert peers.find("other") == []
    assert told == []


def test_page_of_a_peer_is_where_its_mesh_is_reached() -> None:
    """A page that listens on all addresses is linked at the peer's; one on loopback is not."""
    mesh, peers, _ = readers()
    mesh.hear("n1", pack_offer(offer(page_url="https://0.0.0.0:9090")))
    mesh.hear("n2", pack_offer(offer(page_url="http://127.0.0.1:9090")))
    mesh.hear("n3", pack_offer(offer()))
    mesh.hear("n4", pack_offer(offer(page_url="javascript:alert(1)")))
    assert list(peers.levels()) == [PeerPage("n1", "https://10.0.0.2:9090")]


@pytest.mark.parametrize("status", ["draining", "offline", "unknown"])
def test_peer_that_does_not_serve_is_not_asked(status: NodeState) -> None:
    """A peer that is leaving gets no requests."""
    mesh, peers, _ = readers()
    mesh.hear("n1", pack_offer(offer()), status)
    assert peers.find("m") == []
    assert [peer.status for peer in peers.known()] == [status]


def test_unreadable_offer_is_that_peers_failure(caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable offer is counted and logged once, and only its peer is not used."""
    mesh, peers, told = readers()
    mesh.hear("n1", b"\xc1")
    mesh.hear("n2", pack_offer(offer(memory_bytes=-1)))
    mesh.hear("n3", pack_offer(offer()))
    for _ in range(3):
        assert [peer.node_id for peer in peers.find("m")] == ["n3"]
    assert told == [NetworkFailed("malformed", 1)] * 2
    assert caplog.text.count("cannot be read, so it gets no requests") == 2
    assert "`$[3]`" in caplog.text
    mesh.hear("n1", pack_offer(offer()))
    assert [peer.node_id for peer in peers.find("m")] == ["n1", "n3"]


@given(st.binary(max_size=300) | anything.map(msgspec.msgpack.encode))
@example(b"")
@example(msgspec.msgpack.encode([[[[[]]]]] * 8))
def test_any_payload_is_an_offer_or_is_refused(payload: bytes) -> None:
    """Any payload is an offer or is refused."""
    mesh, peers, told = readers()
    mesh.hear("n1", payload)
    assert len(peers.known()) == 1
    assert len(told) <= 1
    peers.find("m")
    peers.models()


texts = st.text(max_size=64) | st.sampled_from(["\x1b[31m", "a\nb", "\u202e", "m"])
numbers = st.sampled_from(
    [0, -1, 1, 10**12, LARGEST_COUNT, LARGEST_COUNT + 1, 2**64 - 1, 0.5, float("nan"), True]
)
any_model = st.tuples(texts, st.sampled_from(["ready", "gone", ""]), *[numbers] * 8, texts)
any_offer = st.tuples(
    texts | st.sampled_from(["http://[::1", "http://1.2.3.4:0", "file:///etc"]),
    texts,
    numbers | st.sampled_from([1e300, float("inf"), -0.0, 5e-324]),
    numbers,
    numbers,
    numbers,
    st.lists(any_model, max_size=MODELS + 2),
)


@given(any_offer)
def test_offer_of_the_right_form_is_in_bounds_or_refused(fields: tuple[Any, ...]) -> None:
    """An accepted offer has no control characters and only plausible numbers."""
    mesh, peers, _ = readers()
    mesh.hear("n1", msgspec.msgpack.encode(fields)[:PAYLOAD_BYTES])
    [peer] = peers.known()
    for model in peer.models:
        assert not set(model.model_id) & set("\x1b\n\u202e")
        assert 0 <= model.layers <= LARGEST_COUNT
    peers.find("m")
    for level in LayerLevels(mesh, peers, 2)():
        assert isinstance(level, LayersPlanned)


def test_full_offer_fits_an_advert() -> None:
    """An offer with as many models as allowed and the longest names fits an advert."""
    most: dict[str, Any] = dict.fromkeys(OfferedModel.__struct_fields__[2:10], LARGEST_COUNT)
    longest = "\U0001f600" * 64
    model = OfferedModel(longest, "unloaded", fingerprint="f" * 64, **most)
    full = Offer(
        longest * 4,
        longest,
        LARGEST_AMOUNT,
        LARGEST_COUNT,
        LARGEST_COUNT,
        LARGEST_AMOUNT,
        (model,) * MODELS,
        longest * 4,
        "b" * 64,
        (OfferedStage(longest, "n" * 64, LARGEST_COUNT, LARGEST_COUNT, LARGEST_COUNT),) * STAGES,
    )
    payload = pack_offer(full)
    assert len(payload) <= PAYLOAD_BYTES
    assert read_offer(payload) == full


def test_offer_of_a_later_version_is_read() -> None:
    """Additional fields are ignored, and missing fields with a default get it."""
    later = msgspec.msgpack.encode([*msgspec.to_builtins(offer()), "more"])
    assert read_offer(later) == offer()
    assert read_offer(msgspec.msgpack.encode(msgspec.to_builtins(offer())[:6])) == offer(models=())
    with pytest.raises(UnreadableOfferError):
        read_offer(msgspec.msgpack.encode(msgspec.to_builtins(offer())[:5]))


@pytest.mark.parametrize("name", ["x" * 65, "a\nb", "\udce9"])
def test_model_that_peers_would_refuse_is_found_out(name: str) -> None:
    """A model that peers would refuse is left out, and the others are offered."""
    with pytest.raises(ValueError, match="model "):
        check_model(OfferedModel(name, "ready", 1, 1, 1, 1, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("said", "reached", "url"),
    [
        ("http://0.0.0.0:8080", "10.0.0.2:7946", "http://10.0.0.2:8080"),
        ("https://[::]:8080", "[fd00::7]:7946", "https://[fd00::7]:8080"),
        ("http://10.0.0.9:81", "10.0.0.2:7946", "http://10.0.0.9:81"),
        ("http://user:pw@10.0.0.9:81/path?x#y", "10.0.0.2:7946", "http://10.0.0.9:81"),
        ("http://127.0.0.1:80", "127.0.0.1:7946", "http://127.0.0.1:80"),
        ("http://127.0.0.1:80", "10.0.0.2:7946", ""),
        ("http://[::1]:80", "10.0.0.2:7946", ""),
        ("http://0.0.0.0:0", "10.0.0.2:7946", ""),
        ("http://0.0.0.0:70000", "10.0.0.2:7946", ""),
        ("http://0.0.0.0", "10.0.0.2:7946", ""),
        ("http://[fe80::1%eth0]:80", "10.0.0.2:7946", ""),
        ("http://[::1", "10.0.0.2:7946", ""),
        ("http://name.test:80", "10.0.0.2:7946", ""),
        ("http://10.0.0.\u0660:80", "10.0.0.2:7946", ""),
        ("http://10.0.0.9:\u0668", "10.0.0.2:7946", ""),
        ("http://\u2100:80", "10.0.0.2:7946", ""),
        ("ftp://10.0.0.9:81", "10.0.0.2:7946", ""),
        ("http://10.0.0.9:81", "", ""),
        ("", "10.0.0.2:7946", ""),
    ],
)
def test_url_is_where_the_peer_can_be_reached(said: str, reached: str, url: str) -> None:
    """Only the IP address and port of a peer's URL count, if a socket accepts them."""
    assert reachable_url(said, reached) == url


@given(st.text(max_size=80) | st.text(alphabet="htps:/[]%.0123456789fe@?#", max_size=40))
def test_no_url_is_an_error(said: str) -> None:
    """Any URL of a peer is accepted or ignored."""
    for text in (said, f"http://{said}", f"http://10.0.0.1:{said}"):
        found = reachable_url(text, "10.0.0.2:7946")
        assert found == "" or found.startswith(("http://", "https://"))


def test_model_with_absurd_layers_is_not_planned() -> None:
    """A model that claims millions of layers is not planned."""
    mesh, peers, _ = readers()
    model = OfferedModel("deep", "failed", 20_000_000, 2**20, 64, 512, 0, 0, 0, 1)
    sound = offer().models[0]
    mesh._describe = lambda: ("online", pack_offer(offer(models=(model, sound))))
    assert list(LayerLevels(mesh, peers, 2)()) == [LayersPlanned("m", 6, 0)]


@trio_test
async def test_own_offer_is_one_that_peers_accept(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """For any figures of the machine, the own offer is one that peers accept."""
    scheduler = Scheduler(lambda _: None, Limits(output_tokens=8, seconds=1.0))
    speed = SpeedMeter(lambda _: None)
    own = OwnOffer(NodeStatus("1", scheduler, lambda _: None), scheduler, speed)
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: 2**60)
    for measured, told in ((math.nan, 0.0), (math.inf, LARGEST_AMOUNT), (-1.0, 0.0), (7.0, 7.0)):
        speed.bytes_per_second = measured
        said = read_offer(own()[1])
        assert (said.bytes_per_second, said.memory_bytes) == (told, LARGEST_COUNT)

    def fail() -> int:
        raise OSError("too many open files")

    monkeypatch.setattr(machine, "usable_memory_bytes", fail)
    await trio.sleep(60)
    assert read_offer(own()[1]) == said
    del autojump_clock
