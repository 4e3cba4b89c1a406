"""Only recent messages of nodes of this mesh are accepted; others are refused and counted."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.mesh.addresses import is_address
from node.mesh.identity import Identity
from node.mesh.membership import Membership
from node.mesh.messages import (
    ADDRESSES,
    CONTACTS,
    MESSAGE_BYTES,
    PAYLOAD_BYTES,
    PROTOCOL,
    SUSPECTS,
    Advert,
    Contact,
    Head,
    Kind,
    Message,
)
from node.mesh.seal import SENDERS, WINDOW_SECONDS, Opened, Refused, Seal
from tests.node.mesh_network import SECRET, WALL, advert, anything

NONCE = b"nonce of one"
ours = Seal([SECRET])


def message(kind: Kind = "survey", sequence: int = 1, **changed: Any) -> Message:
    """Return a valid message."""
    members = Membership(Identity("n1", 5, 77, "1"), [], 8)
    said = members.survey(advert(), 0.0, WALL, NONCE)
    return msgspec.structs.replace(said, kind=kind, sequence=sequence, **changed)


def reason(found: Opened | Refused) -> str:
    return found.reason if isinstance(found, Refused) else ""


def test_message_of_this_mesh_is_opened() -> None:
    """A signed message is read as it was written."""
    said = message()
    assert Seal([SECRET]).open_survey(ours.sign(said), WALL) == Opened(said)
    answer = message("answer")
    assert ours.open_answer(ours.sign(answer), WALL, NONCE) == Opened(answer)


@pytest.mark.parametrize("secrets", [(), ("another secret of another mesh",)])
def test_other_secret_is_unauthenticated(secrets: tuple[str, ...]) -> None:
    """Messages with another secret are refused, in both directions."""
    stranger = Seal(secrets)
    assert reason(ours.open_survey(stranger.sign(message()), WALL)) == "unauthenticated"
    assert reason(stranger.open_survey(ours.sign(message()), WALL)) == "unauthenticated"
    said = stranger.sign(message("answer"))
    assert reason(ours.open_answer(said, WALL, NONCE)) == "unauthenticated"


def test_secret_can_be_changed_without_a_pause() -> None:
    """Messages signed with the old secret are read while it is kept as a second line."""
    changing, before = Seal(["the new secret of this mesh", SECRET]), Seal([SECRET])
    assert isinstance(changing.open_survey(before.sign(message()), WALL), Opened)
    assert reason(before.open_survey(changing.sign(message()), WALL)) == "unauthenticated"


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_changed_bit_is_noticed(position: int, bit: int) -> None:
    """A message with one changed bit is refused."""
    sealed = bytearray(ours.sign(message()))
    sealed[position % len(sealed)] ^= 1 << bit
    assert reason(Seal([SECRET]).open_survey(bytes(sealed), WALL)) == "unauthenticated"


def test_repeated_survey_counts_once() -> None:
    """A copy of the last survey is recognised; an older one is stale."""
    seal = Seal([SECRET])
    first, second = ours.sign(message(sequence=1)), ours.sign(message(sequence=2))
    assert seal.open_survey(first, WALL) == Opened(message(sequence=1))
    assert seal.open_survey(second, WALL) == Opened(message(sequence=2))
    assert seal.open_survey(second, WALL) == Opened(message(sequence=2), repeated=True)
    assert reason(seal.open_survey(first, WALL)) == "stale"


@pytest.mark.parametrize("away", [WINDOW_SECONDS + 1, -WINDOW_SECONDS - 1])
def test_message_of_another_time_is_stale(away: float) -> None:
    """A survey that is replayed later is stale, and its sender is named."""
    found = Seal([SECRET]).open_survey(ours.sign(message()), WALL + away)
    assert found == Refused("stale", Head(PROTOCOL, "n1", "1", WALL))
    leave = ours.sign(message("leave"))
    assert reason(Seal([SECRET]).open_survey(leave, WALL + away)) == "stale"


def test_answer_is_good_for_its_survey_only() -> None:
    """An answer is valid for its own survey only."""
    sealed = ours.sign(message("answer"))
    assert reason(ours.open_answer(sealed, WALL, b"nonce of two")) == "stale"


def test_message_is_not_taken_for_another_kind() -> None:
    """A survey is not accepted as an answer, or the other way round."""
    assert reason(ours.open_answer(ours.sign(message("survey")), WALL, NONCE)) == "malformed"
    assert reason(ours.open_survey(ours.sign(message("answer")), WALL)) == "malformed"


def test_other_protocol_is_named() -> None:
    """The sender of a message of another protocol is read."""
    later = [PROTOCOL + 1, "n9", "9.0", WALL, {"a": "field"}, 3]
    sealed = ours.sign(later)  # type: ignore[arg-type]
    found = ours.open_survey(sealed, WALL)
    assert isinstance(found, Refused)
    assert found.reason == "incompatible"
    assert found.head is not None
    assert (found.head.node_id, found.head.software) == ("n9", "9.0")


def test_field_that_is_new_in_this_protocol_is_passed_over() -> None:
    """An additional field in this protocol is ignored."""
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(message()))
    sealed = ours.sign([*said, "more"])  # type: ignore[arg-type]
    assert isinstance(Seal([SECRET]).open_survey(sealed, WALL), Opened)


def test_memory_of_senders_is_bounded() -> None:
    """With too many senders the newest are refused until time passes."""
    seal = Seal([SECRET])
    for session in range(SENDERS):
        assert isinstance(seal.open_survey(ours.sign(message(session=session)), WALL), Opened)
    one_more = message(session=SENDERS)
    assert reason(seal.open_survey(ours.sign(one_more), WALL)) == "overflow"
    assert isinstance(seal.open_survey(ours.sign(message(session=7)), WALL), Opened)  # known
    later = WALL + 2 * WINDOW_SECONDS + 1
    fresh = msgspec.structs.replace(one_more, sent_at=later)
    assert isinstance(seal.open_survey(ours.sign(fresh), later), Opened)
    assert len(seal._taken) == SENDERS


def test_survey_is_remembered_for_as_long_as_it_could_be_believed() -> None:
    """A sender whose message could still be replayed is not forgotten."""
    seal = Seal([SECRET])
    ahead = message(sent_at=WALL + WINDOW_SECONDS)
    assert isinstance(seal.open_survey(ours.sign(ahead), WALL), Opened)
    for session in range(1000, 1000 + SENDERS):
        seal.open_survey(ours.sign(message(session=session)), WALL)
    last_moment = WALL + 2 * WINDOW_SECONDS
    fresh = message(session=1, sent_at=last_moment)
    assert reason(seal.open_survey(ours.sign(fresh), last_moment)) == "overflow"
    assert seal.open_survey(ours.sign(ahead), last_moment) == Opened(ahead, repeated=True)


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    """Noise is refused with its reason."""
    expected = "malformed" if len(noise) < 32 else "unauthenticated"
    assert reason(ours.open_survey(noise, WALL)) == expected
    assert reason(ours.open_answer(noise, WALL, NONCE)) == expected


fields: list[list[Any]] = [
    [PROTOCOL],
    ["n1", "", "a" * 65, "-"],
    ["1"],
    [WALL, float("nan"), float("inf"), -1.0],
    ["survey", "answer", "leave", "x"],
    [0, 5, -1, 2**60],
    [7],
    [0, 1],
    [NONCE, b"", b"x" * 13],
    [0, 2**64 - 1],
]


@given(
    head=st.tuples(*(st.sampled_from(choice) | anything for choice in fields)),
    tail=st.lists(anything, max_size=4),
)
def test_nonsense_of_a_member_does_no_harm(head: tuple[Any, ...], tail: list[Any]) -> None:
    """Nonsense from a member is refused or understood."""
    seal, members = Seal([SECRET]), Membership(Identity("n0", 1, 1, "1"), [], 4)
    sealed = ours.sign([*head, *tail])  # type: ignore[arg-type]
    found = seal.open_survey(sealed, WALL)
    if isinstance(found, Opened):
        members.take_survey(found.message, advert(), 0.0, WALL, repeated=False)
    assert len(members.table.views(0.0)) <= 4


sound_adverts = st.builds(
    Advert,
    addresses=st.lists(st.text(min_size=3, max_size=64), max_size=4).map(tuple),
    status=st.sampled_from(["online", "busy", "offline", "draining", "unknown"]),
    lag_seconds=st.floats(0, 1e18),
    payload=st.binary(max_size=200),
)


@given(sound_adverts)
def test_any_sound_advert_arrives_as_it_was(said: Advert) -> None:
    """Any valid advert arrives unchanged."""
    sealed = ours.sign(message(advert=said))
    found = Seal([SECRET]).open_survey(sealed, WALL)
    assert isinstance(found, Opened)
    assert found.message.advert == said


@given(
    said=sound_adverts,
    contacts=st.lists(
        st.tuples(
            st.sampled_from(["n0", "n1", "n2", "ghost"]),
            st.integers(0, 2**53 - 1),
            st.lists(st.text(min_size=3, max_size=64), max_size=4).map(tuple),
        ),
        max_size=8,
    ),
    suspects=st.lists(st.sampled_from(["n0", "n2"]), max_size=4).map(tuple),
)
def test_sound_message_of_a_hostile_member_does_no_harm(
    said: Advert,
    contacts: list[tuple[str, int, tuple[str, ...]]],
    suspects: tuple[str, ...],
) -> None:
    """Any valid message from a hostile member is handled without an error.

    The node takes every step afterwards: it surveys, judges, answers and looks. Only addresses are
    dialed or passed on.
    """
    members = Membership(Identity("n0", 1, 1, "1"), ["10.0.0.9:1"], 4)
    heard = message(
        "answer",
        advert=said,
        contacts=tuple(Contact(*each) for each in contacts),
        suspects=suspects,
    )
    members.take_answer(heard, "10.0.0.1:7946", 0.0, 0.1)
    members.take_survey(
        msgspec.structs.replace(heard, kind="survey"), said, 0.1, WALL, repeated=False
    )
    for second in range(40):
        members.tick(float(second), 0.5)
        asked = members.survey(advert(), float(second), WALL, NONCE)
        assert isinstance(Seal([SECRET]).open_survey(ours.sign(asked), WALL), Opened)
        told = [address for contact in asked.contacts for address in contact.addresses]
        assert all(map(is_address, [*members.table.wanted(), *told]))
    assert [view.state for view in members.table.views(40.0)] == ["dead"]


def test_longest_message_is_short_enough() -> None:
    """The longest payload, contacts and suspects fit into a message."""
    address = f"[{'f' * 4}{':ffff' * 7}]:65535"
    assert is_address(address)
    longest = message(
        advert=Advert((address,) * ADDRESSES, "draining", 1e18, b"x" * PAYLOAD_BYTES),
        contacts=tuple(Contact("n" * 64, 2**53 - 1, (address, address)) for _ in range(CONTACTS)),
        suspects=("n" * 64,) * SUSPECTS,
        software="s" * 64,
    )
    sealed = ours.sign(longest)
    assert len(sealed) <= MESSAGE_BYTES
    assert isinstance(Seal([SECRET]).open_survey(sealed, WALL), Opened)


def test_longer_payload_is_refused() -> None:
    """A payload above the limit is refused."""
    sealed = ours.sign(message(advert=Advert((), "online", 0.0, b"x" * (PAYLOAD_BYTES + 1))))
    assert reason(Seal([SECRET]).open_survey(sealed, WALL)) == "malformed"


FIRST_PROTOCOL = [1, "old", "0.1.0", WALL, "survey", 5, 77, 1, NONCE, 3]
"""The beginning of a message of protocol 1; its advert was an array of eleven fields."""


def test_node_of_the_first_protocol_is_named() -> None:
    """A node of protocol 1 is incompatible, not malformed."""
    said = [["10.0.0.1:7946"], "http://x:1", "1", "e", "online", 2.0, 2**33, 8, 0.0, 0.0, []]
    found = Seal([SECRET]).open_survey(ours.sign([*FIRST_PROTOCOL, said, [], []]), WALL)  # type: ignore[arg-type]
    assert found == Refused("incompatible", Head(1, "old", "0.1.0", WALL))
