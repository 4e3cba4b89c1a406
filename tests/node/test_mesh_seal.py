"""Only what a node of this mesh said lately is believed; everything else is refused and counted."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.mesh.membership import Identity, Membership
from node.mesh.messages import PROTOCOL, Advert, Kind, Message, ModelAdvert
from node.mesh.seal import SENDERS, WINDOW_SECONDS, Opened, Refused, Seal
from tests.node.mesh_network import SECRET, WALL, advert

NONCE = b"nonce of one"
ours = Seal([SECRET])


def message(kind: Kind = "survey", sequence: int = 1, **changed: Any) -> Message:
    """Give a sound message."""
    members = Membership(Identity("n1", 5, 77, "1"), [], 8)
    said = members.survey(advert(), 0.0, WALL, NONCE)
    return msgspec.structs.replace(said, kind=kind, sequence=sequence, **changed)


def reason(found: Opened | Refused) -> str:
    return found.reason if isinstance(found, Refused) else ""


def test_message_of_this_mesh_is_opened() -> None:
    """What one node signs another reads, as it was."""
    said = message()
    assert Seal([SECRET]).open_survey(ours.sign(said), WALL) == Opened(said)
    answer = message("answer")
    assert ours.open_answer(ours.sign(answer), WALL, NONCE) == Opened(answer)


@pytest.mark.parametrize("secrets", [(), ("another secret of another mesh",)])
def test_other_secret_is_unauthenticated(secrets: tuple[str, ...]) -> None:
    """Whoever has not the secret is not heard, in either direction."""
    stranger = Seal(secrets)
    assert reason(ours.open_survey(stranger.sign(message()), WALL)) == "unauthenticated"
    assert reason(stranger.open_survey(ours.sign(message()), WALL)) == "unauthenticated"
    said = stranger.sign(message("answer"))
    assert reason(ours.open_answer(said, WALL, NONCE)) == "unauthenticated"


def test_secret_can_be_changed_without_a_pause() -> None:
    """While the old one is kept as a second line, messages signed with it are read too."""
    changing, before = Seal(["the new secret of this mesh", SECRET]), Seal([SECRET])
    assert isinstance(changing.open_survey(before.sign(message()), WALL), Opened)
    assert reason(before.open_survey(changing.sign(message()), WALL)) == "unauthenticated"


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_changed_bit_is_noticed(position: int, bit: int) -> None:
    """Nothing of a message can be changed on its way."""
    sealed = bytearray(ours.sign(message()))
    sealed[position % len(sealed)] ^= 1 << bit
    assert reason(Seal([SECRET]).open_survey(bytes(sealed), WALL)) == "unauthenticated"


def test_repeated_survey_counts_once() -> None:
    """A copy of the last survey is answered and teaches nothing; an older one is stale."""
    seal = Seal([SECRET])
    first, second = ours.sign(message(sequence=1)), ours.sign(message(sequence=2))
    assert seal.open_survey(first, WALL) == Opened(message(sequence=1))
    assert seal.open_survey(second, WALL) == Opened(message(sequence=2))
    assert seal.open_survey(second, WALL) == Opened(message(sequence=2), repeated=True)
    assert reason(seal.open_survey(first, WALL)) == "stale"


@pytest.mark.parametrize("away", [WINDOW_SECONDS + 1, -WINDOW_SECONDS - 1])
def test_message_of_another_time_is_stale(away: float) -> None:
    """A survey that was recorded and is played later, to anybody, is refused."""
    assert reason(Seal([SECRET]).open_survey(ours.sign(message()), WALL + away)) == "stale"
    leave = ours.sign(message("leave"))
    assert reason(Seal([SECRET]).open_survey(leave, WALL + away)) == "stale"


def test_answer_is_good_for_its_survey_only() -> None:
    """An answer that was recorded answers no later survey, whatever the clocks say."""
    sealed = ours.sign(message("answer"))
    assert reason(ours.open_answer(sealed, WALL, b"nonce of two")) == "stale"


def test_message_is_not_taken_for_another_kind() -> None:
    """Neither a survey that is sent back as an answer nor the reverse means anything."""
    assert reason(ours.open_answer(ours.sign(message("survey")), WALL, NONCE)) == "malformed"
    assert reason(ours.open_survey(ours.sign(message("answer")), WALL)) == "malformed"


def test_other_protocol_is_named() -> None:
    """Of a message of a newer form the first fields can be read: who sent it."""
    later = [PROTOCOL + 1, "n9", "9.0", WALL, {"a": "field"}, 3]
    sealed = ours.sign(later)  # type: ignore[arg-type]
    found = ours.open_survey(sealed, WALL)
    assert isinstance(found, Refused)
    assert found.reason == "incompatible"
    assert found.head is not None
    assert (found.head.node_id, found.head.software) == ("n9", "9.0")


def test_field_that_is_new_in_this_protocol_is_passed_over() -> None:
    """A later node of the same protocol may say more than this one understands."""
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(message()))
    sealed = ours.sign([*said, "more"])  # type: ignore[arg-type]
    assert isinstance(Seal([SECRET]).open_survey(sealed, WALL), Opened)


def test_memory_of_senders_is_bounded() -> None:
    """With more senders than there ever are peers the newest are refused, until time passes."""
    seal = Seal([SECRET])
    for session in range(SENDERS):
        assert isinstance(seal.open_survey(ours.sign(message(session=session)), WALL), Opened)
    one_more = message(session=SENDERS)
    assert reason(seal.open_survey(ours.sign(one_more), WALL)) == "stale"
    later = WALL + WINDOW_SECONDS + 1
    fresh = msgspec.structs.replace(one_more, sent_at=later)
    assert isinstance(seal.open_survey(ours.sign(fresh), later), Opened)
    assert len(seal._taken) == 1


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    """Whatever comes without the secret is refused for what it is."""
    expected = "malformed" if len(noise) < 32 else "unauthenticated"
    assert reason(ours.open_survey(noise, WALL)) == expected
    assert reason(ours.open_answer(noise, WALL, NONCE)) == expected


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=30,
)
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
    """A member that sends what it should not is refused or understood, and nothing breaks."""
    seal, members = Seal([SECRET]), Membership(Identity("n0", 1, 1, "1"), [], 4)
    sealed = ours.sign([*head, *tail])  # type: ignore[arg-type]
    found = seal.open_survey(sealed, WALL)
    if isinstance(found, Opened):
        members.take_survey(found.message, advert(), 0.0, WALL, repeated=False)
    assert len(members.peers(0.0)) <= 4


sound_adverts = st.builds(
    Advert,
    addresses=st.lists(st.text(min_size=3, max_size=64), max_size=4).map(tuple),
    api_url=st.text(max_size=256),
    software=st.text(max_size=64),
    engine=st.text(max_size=64),
    status=st.sampled_from(["online", "busy", "offline", "draining", "unknown"]),
    cpu_cores=st.floats(0, 1e18),
    memory_bytes=st.integers(0, 2**53 - 1),
    max_layers=st.integers(0, 2**53 - 1),
    bytes_per_second=st.floats(0, 1e18),
    lag_seconds=st.floats(0, 1e18),
    models=st.lists(
        st.builds(
            ModelAdvert,
            model_id=st.text(max_size=64),
            state=st.sampled_from(["unloaded", "loading", "ready", "failed"]),
            **{name: st.integers(0, 2**53 - 1) for name in ModelAdvert.__struct_fields__[2:-1]},
            fingerprint=st.text(max_size=64),
        ),
        max_size=3,
    ).map(tuple),
)


@given(sound_adverts)
def test_any_sound_advert_arrives_as_it_was(said: Advert) -> None:
    """Whatever a node may say of itself, the others hear exactly that."""
    sealed = ours.sign(message(advert=said))
    found = Seal([SECRET]).open_survey(sealed, WALL)
    assert isinstance(found, Opened)
    assert found.message.advert == said
