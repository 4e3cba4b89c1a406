"""Each event is counted exactly once, whatever is lost, repeated or garbled on the way."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.batches import Ingest
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.mesh import NETWORK_LATENCY, PEER_STATUS
from exporter.metrics.catalogue.models import MODEL_LOADS, MODELS_LOADED
from exporter.metrics.catalogue.node import (
    NODE_DEPARTED,
    NODE_RESOURCES,
    NODE_STATE,
    NODE_STATUS,
    NODE_UP,
)
from exporter.metrics.catalogue.requests import QUEUE_DEPTH, TOKENS_GENERATED
from exporter.metrics.catalogue.system import CPU_SECONDS, LOOP_LAG
from exporter.metrics.catalogue.telemetry import (
    BATCHES,
    DROPPED,
    DUPLICATES,
    EMITTED,
    EVENT_LAG,
    EVENTS,
    LAST_EVENT,
    LOST,
    REJECTIONS,
)
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.events.mesh import PeerAnswered, PeerChanged
from shared.events.requests import TokensGenerated
from tests.builders import every_event, histogram, number, pack_batch

TIMEOUT_SECONDS = 2.5
RECEIVED_AT = 1.6e9
ALL = len(every_event())


@dataclasses.dataclass
class Exporter:
    """An ingest with its state and a clock that the test moves."""

    state: State = dataclasses.field(default_factory=State)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.ingest = Ingest(self.state, TIMEOUT_SECONDS)

    def take(self, message: bytes, pipe: int = 1, *others: int) -> wire.Reply:
        """Take a message now from a connection, while the others are open as well."""
        accepted = self.ingest.examine(message, self.now, pipe, lambda: {pipe, *others})
        if isinstance(accepted, wire.Reply):
            return accepted
        return self.ingest.count(accepted, self.now, RECEIVED_AT)

    def number(self, family: Family, *labels: str) -> float | None:
        """Return the value that a scrape shows."""
        return number(self.state, family, *labels)

    def events(self, kind: str) -> float:
        """Return the number of counted events of a kind."""
        return self.number(EVENTS, "n1", kind) or 0

    def wait(self, seconds: float) -> None:
        """Advance the clock and handle silent nodes."""
        self.now += seconds
        for node_id in self.ingest.silent(self.now):
            self.ingest.lose(node_id)

    def everything(self) -> dict[str, Any]:
        """Return every number that a scrape shows."""
        cut = take_cut(self.state)
        numbers = {family.name: series for family, series in cut.numbers.items()}
        histograms = {
            family.name: {labels: (kept.counts, kept.sum) for labels, kept in series.items()}
            for family, series in cut.histograms.items()
        }
        return {**numbers, **histograms}

    def levels(self) -> list[str]:
        """Return the names of the gauges of nodes that are not computed at the scrape."""
        return [
            family.name
            for family, series in take_cut(self.state).numbers.items()
            if series and family.kind == "gauge" and family.scope != "exporter"
            if not family.derived
        ]


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


def tokens(count: int, model_id: str = "m") -> list[Event]:
    return [TokensGenerated(model_id, 1) for _ in range(count)]


def raw(*fields: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(fields))


def test_batch_is_counted_and_acknowledged(exporter: Exporter) -> None:
    """The reply has the number of the last counted event."""
    reply = exporter.take(pack_batch(*every_event()))
    assert (reply.protocol, reply.applied, reply.error) == (wire.PROTOCOL, ALL, "")
    assert exporter.number(EMITTED, "n1") == ALL
    assert sum(exporter.events(type(event).__name__) for event in every_event()) == ALL
    assert exporter.number(LOST, "n1") == 0
    assert exporter.number(BATCHES, "n1") == 1


def test_node_is_up_with_its_first_batch(exporter: Exporter) -> None:
    """A node is up after its first batch, even an empty one."""
    exporter.take(pack_batch(age=0.75))
    assert exporter.number(NODE_UP, "n1") == 1
    assert exporter.number(EVENT_LAG, "n1") == 0.75
    assert exporter.number(LAST_EVENT, "n1") == RECEIVED_AT


MALFORMED = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "nil": b"\xc0",
    "map": msgspec.msgpack.encode({"protocol": 1}),
    "short": pack_batch(*tokens(3))[:-1],
    "long": pack_batch(*tokens(3)) + b"\x00",
    "few fields": msgspec.msgpack.encode([1, "n1", "s1"]),
    "no text": pack_batch().replace(b"n1", b"\xff\xfe"),
    "events are no array": msgspec.msgpack.encode([1, "n1", "s1", 1, 0, {}, 0.0, False, {"a": 1}]),
    "nested without end": b"\x91" * 100_000,
    "node id of other signs": pack_batch(node_id="n 1"),
    "node id too long": pack_batch(node_id="n" * 65),
    "node id empty": pack_batch(node_id=""),
    "node id with a line's end": pack_batch(node_id="n1\n"),
    "session too long": pack_batch(session="s" * (wire.SESSION_CHARACTERS + 1)),
    "sequence 0": pack_batch(first=0, emitted=9),
    "sequence negative": pack_batch(first=-5, emitted=9),
    "fewer emitted than sent": pack_batch(*tokens(3), emitted=2),
    "emitted negative": pack_batch(first=1, emitted=-1),
    "dropped negative": pack_batch(dropped={"oversize": -1}, emitted=5),
    "age negative": pack_batch(age=-0.1),
    "age not a number": pack_batch(age=math.nan),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_malformed_message_is_refused(exporter: Exporter, message: bytes) -> None:
    """A malformed message is refused and changes nothing."""
    before = exporter.everything()
    reply = exporter.take(message)
    assert (reply.error, reply.applied) == ("malformed", 0)
    assert exporter.state.nodes == {}
    assert exporter.everything() == before


def test_infinite_age_is_refused(exporter: Exporter) -> None:
    """A batch with an infinite age is refused."""
    assert exporter.take(pack_batch(age=math.inf)).error == "malformed"


def test_other_protocol_of_another_form_is_refused_as_such(exporter: Exporter) -> None:
    """A batch of another protocol is recognised even if it has another form."""
    newer = msgspec.msgpack.encode([wire.PROTOCOL + 1, {"fields": "of another kind"}])
    assert exporter.take(newer).error == "protocol"


@pytest.mark.parametrize("protocol", [0, 2, -1, 2**40])
def test_other_protocol_is_refused(exporter: Exporter, protocol: int) -> None:
    """A batch of another protocol is refused with the supported protocol."""
    reply = exporter.take(pack_batch(*tokens(2), protocol=protocol))
    assert (reply.error, reply.protocol) == ("protocol", wire.PROTOCOL)
    assert exporter.state.nodes == {}


@given(st.binary(max_size=60))
def test_any_bytes_are_answered(message: bytes) -> None:
    """Any bytes get a reply."""
    assert Exporter().take(message).error in ("malformed", "protocol")


@hypothesis.settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 500),
)
def test_any_damage_is_answered(changes: list[tuple[int, int]], cut: int) -> None:
    """A damaged batch is counted or refused, and the state stays valid."""
    message = bytearray(pack_batch(*every_event(), dropped={"oversize": 2}))
    for at, byte in changes:
        message[at % len(message)] = byte
    exporter = Exporter()
    for damaged in (bytes(message), bytes(message[:cut])):
        reply = exporter.take(damaged)
        assert reply.error in ("", *REJECTIONS)
    exporter.wait(1)
    exporter.everything()


def test_unknown_event_does_not_cost_the_others(exporter: Exporter) -> None:
    """An unknown event is counted as unknown, and the other events are counted as usual."""
    reply = exporter.take(
        pack_batch(*tokens(1), raw(999, "new"), raw(2, "sleeping"), raw("x"), *tokens(2))
    )
    assert (reply.applied, reply.error) == (6, "")
    assert (exporter.events("unknown"), exporter.events("TokensGenerated")) == (3, 3)
    assert exporter.number(LOST, "n1") == 0


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (raw(5, math.nan), "invalid"),
        (raw(5, math.inf), "invalid"),
        (raw(5, -0.001), "invalid"),
        (raw(13, "m", -1), "invalid"),
        (raw(6, "m", -math.inf), "invalid"),
        (raw(5, "0.5"), "unknown"),
        (raw(5, None), "unknown"),
        (raw(13, "m", 1.5), "unknown"),
        (raw(13, 7, 1), "unknown"),
        (raw(13, "m"), "unknown"),
        (raw(13, "m", 2**64 - 1), "TokensGenerated"),
    ],
    ids=lambda value: msgspec.msgpack.encode(value).hex() if value != str(value) else value,
)
def test_bad_value_is_counted_and_not_applied(
    exporter: Exporter, bad: msgspec.Raw, kind: str
) -> None:
    """An event with an impossible number moves no metric and is counted by reason."""
    exporter.take(pack_batch(*tokens(1), bad, *tokens(1)))
    assert exporter.events(kind) == (1 if kind != "TokensGenerated" else 3)
    assert exporter.events("TokensGenerated") == (2 if kind != "TokensGenerated" else 3)
    assert exporter.number(LOST, "n1") == 0
    if kind != "TokensGenerated":
        assert exporter.number(TOKENS_GENERATED, "n1", "m") == 2
        assert sum(histogram(exporter.state, LOOP_LAG, "n1").counts) == 0
        assert exporter.number(MODEL_LOADS, "n1", "m", "ok") is None


def test_event_with_one_bad_value_is_not_applied_in_part(exporter: Exporter) -> None:
    """An event with one bad value is not applied at all, so that its metrics agree."""
    good = every_event()[2]
    bad = msgspec.structs.replace(good, max_layers=-1)
    exporter.take(pack_batch(bad))
    assert exporter.number(NODE_RESOURCES, "n1", "cpu_cores") is None
    exporter.take(pack_batch(good, first=2))
    assert exporter.number(NODE_RESOURCES, "n1", "cpu_cores") == 2


def test_repeated_batch_is_counted_once(exporter: Exporter) -> None:
    """A batch that is sent again after a lost reply is acknowledged and skipped."""
    message = pack_batch(*tokens(3))
    exporter.take(message)
    reply = exporter.take(message)
    assert (reply.applied, reply.error) == (3, "")
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 3
    assert exporter.number(DUPLICATES, "n1") == 3
    assert exporter.number(EMITTED, "n1") == 3


def test_overlap_is_counted_once(exporter: Exporter) -> None:
    """Of a batch that was counted in part, only the rest is counted."""
    exporter.take(pack_batch(*tokens(3)))
    reply = exporter.take(pack_batch(*tokens(4), first=2))
    assert reply.applied == 5
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 5
    assert exporter.number(DUPLICATES, "n1") == 2
    assert exporter.number(LOST, "n1") == 0


def test_gap_is_told_as_lost(exporter: Exporter) -> None:
    """Events that neither arrive nor were dropped count as lost."""
    exporter.take(pack_batch(*tokens(2)))
    exporter.take(pack_batch(*tokens(2), first=6))
    assert exporter.number(LOST, "n1") == 3


def test_drops_count_by_reason(exporter: Exporter) -> None:
    """Drops count by the node's reason, and not as lost."""
    exporter.take(pack_batch(*tokens(2), dropped={"oversize": 1, "buffer_full": 4}))
    exporter.take(pack_batch(first=3, dropped={"oversize": 2, "buffer_full": 4}))
    assert exporter.number(DROPPED, "n1", "oversize") == 2
    assert exporter.number(DROPPED, "n1", "buffer_full") == 4
    assert exporter.number(LOST, "n1") == 0


def test_drop_of_an_unknown_reason_counts_as_other(exporter: Exporter) -> None:
    """An unknown reason of a drop counts as `other`."""
    exporter.take(pack_batch(dropped={"moon": 3}))
    assert exporter.number(DROPPED, "n1", "other") == 3
    assert exporter.number(LOST, "n1") == 0


def test_drops_of_unknown_reasons_add_up(exporter: Exporter) -> None:
    """The drops of two unknown reasons add up."""
    exporter.take(pack_batch(dropped={"moon": 3, "sun": 2}))
    assert exporter.number(DROPPED, "n1", "other") == 5
    assert exporter.number(LOST, "n1") == 0


def test_new_session_replaces_levels_and_keeps_counters(exporter: Exporter) -> None:
    """A new session replaces the levels; counters continue."""
    exporter.take(pack_batch(*every_event()[:-1]))
    assert "inference_queue_depth" in exporter.levels()
    reply = exporter.take(pack_batch(*tokens(1), session="s2"), 2)
    assert (reply.applied, reply.levels_wanted) == (1, True)
    assert exporter.levels() == []
    assert exporter.number(NODE_UP, "n1") == 1
    assert exporter.number(MODELS_LOADED, "n1") == 0
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 2
    assert exporter.number(EMITTED, "n1") == ALL
    exporter.take(pack_batch(*every_event()[:-1], session="s2", first=2), 2)
    assert exporter.number(CPU_SECONDS, "n1", "engine") == 15
    assert exporter.number(LOST, "n1") == 0


def test_late_copy_of_an_old_session_is_known(exporter: Exporter) -> None:
    """A late batch of the previous session is not counted again."""
    late = pack_batch(*tokens(3))
    exporter.take(late)
    exporter.take(pack_batch(*tokens(1), session="s2"), 2)
    assert exporter.take(late).applied == 3
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 4


def test_nodes_do_not_mix(exporter: Exporter) -> None:
    """Two nodes have separate sequences and series, even with the same session name."""
    exporter.take(pack_batch(*tokens(2)))
    exporter.take(pack_batch(*tokens(3), node_id="n2"))
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 2
    assert exporter.number(TOKENS_GENERATED, "n2", "m") == 3
    exporter.take(pack_batch(first=3, goodbye=True))
    assert (exporter.number(NODE_UP, "n1"), exporter.number(NODE_UP, "n2")) == (0, 1)


def check_gone(exporter: Exporter) -> None:
    assert exporter.levels() == []
    assert exporter.number(NODE_UP, "n1") == 0
    assert exporter.number(NODE_STATUS, "n1") == 0
    assert exporter.number(NODE_STATE, "n1", "offline") == 1
    assert exporter.number(MODELS_LOADED, "n1") is None
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 1
    assert exporter.number(LAST_EVENT, "n1") == RECEIVED_AT


def test_goodbye_takes_the_levels_away(exporter: Exporter) -> None:
    """A goodbye takes a node offline at once; its counters and last time stay."""
    exporter.take(pack_batch(*every_event()[:-1]))
    reply = exporter.take(pack_batch(first=ALL, goodbye=True))
    assert not reply.levels_wanted
    check_gone(exporter)


def test_repeated_goodbye_leaves_the_node_gone(exporter: Exporter) -> None:
    """A repeated goodbye is acknowledged and does not ask for levels."""
    exporter.take(pack_batch(*every_event()[:-1]))
    for _ in range(2):
        assert not exporter.take(pack_batch(first=ALL, goodbye=True)).levels_wanted
        check_gone(exporter)


def test_silence_takes_the_levels_away(exporter: Exporter) -> None:
    """A node is gone when it has been silent for longer than the timeout, not before."""
    exporter.take(pack_batch(*every_event()[:-1]))
    exporter.wait(TIMEOUT_SECONDS)
    assert exporter.number(NODE_UP, "n1") == 1
    exporter.wait(0.001)
    check_gone(exporter)


def test_goodbye_is_told_from_a_loss(exporter: Exporter) -> None:
    """A node counts as departed only if its last run ended with a goodbye."""
    exporter.take(pack_batch())
    seen = [exporter.number(NODE_DEPARTED, "n1")]
    exporter.wait(TIMEOUT_SECONDS + 1)
    seen.append(exporter.number(NODE_DEPARTED, "n1"))
    exporter.take(pack_batch(session="s2"))
    exporter.take(pack_batch(session="s2", goodbye=True))
    seen.append(exporter.number(NODE_DEPARTED, "n1"))
    exporter.take(pack_batch(session="s3"))
    seen.append(exporter.number(NODE_DEPARTED, "n1"))
    assert seen == [0, 0, 1, 0]


@pytest.mark.parametrize("end", ["silence", "goodbye", "restart"])
def test_node_that_ended_has_no_peers(exporter: Exporter, end: str) -> None:
    """The peers of a run end with it: the next run may have others."""
    met = [PeerChanged("n9", "alive", "online"), PeerAnswered("n9", "survey", 0.1)]
    exporter.take(pack_batch(*met))
    assert exporter.number(PEER_STATUS, "n1", "n9") == 1
    if end == "silence":
        exporter.wait(TIMEOUT_SECONDS + 1)
        exporter.wait(0)
    elif end == "goodbye":
        exporter.take(pack_batch(first=len(met) + 1, goodbye=True))
    else:
        exporter.take(pack_batch(session="s2"), 2)
    cut = take_cut(exporter.state)
    assert cut.numbers[PEER_STATUS] == {}
    assert cut.histograms[NETWORK_LATENCY] == {}


def test_heartbeat_keeps_a_node_up(exporter: Exporter) -> None:
    """Any batch ends the silence, even an empty one."""
    exporter.take(pack_batch(*every_event()[:-1]))
    for _ in range(5):
        exporter.wait(2)
        exporter.take(pack_batch(first=ALL))
    assert exporter.number(NODE_STATUS, "n1") == 1
    assert exporter.number(QUEUE_DEPTH, "n1", "m") == 1


def test_levels_are_asked_for_when_they_are_missing(exporter: Exporter) -> None:
    """Levels are requested with the first batch and with the first one after a silence."""
    wishes = [exporter.take(pack_batch()).levels_wanted for _ in range(2)]
    exporter.wait(TIMEOUT_SECONDS + 1)
    wishes += [exporter.take(pack_batch()).levels_wanted for _ in range(2)]
    assert wishes == [True, False, True, False]


def test_node_that_came_back_is_shown_again(exporter: Exporter) -> None:
    """A session that speaks again after a silence continues, with its levels restored."""
    exporter.take(pack_batch(*every_event()[:-1]))
    exporter.wait(60)
    exporter.take(pack_batch(*every_event()[:-1], first=ALL))
    assert exporter.number(NODE_STATUS, "n1") == 1
    assert exporter.number(MODELS_LOADED, "n1") == 1
    assert exporter.number(LOST, "n1") == 0


def test_second_live_node_of_one_name_is_refused(exporter: Exporter) -> None:
    """A second live node with the same name is refused as a conflict and changes nothing."""
    exporter.take(pack_batch(*every_event()[:-1]), 1)
    before = exporter.everything()
    reply = exporter.take(pack_batch(*tokens(3), session="s2"), 2, 1)
    assert (reply.error, reply.levels_wanted) == ("conflict", False)
    assert exporter.everything() == before
    assert not exporter.take(pack_batch(*tokens(1), first=ALL), 1, 2).error
    assert exporter.state.nodes["n1"].is_doubled(exporter.now)


def test_restarted_node_is_no_second_one(exporter: Exporter) -> None:
    """A node may restart under its name once its connection is closed or it said goodbye."""
    exporter.take(pack_batch(*tokens(1)), 1)
    assert not exporter.take(pack_batch(*tokens(1), session="s2"), 2).error
    exporter.take(pack_batch(first=2, session="s2", goodbye=True), 2)
    assert not exporter.take(pack_batch(*tokens(1), session="s3"), 3, 2).error
    assert exporter.number(TOKENS_GENERATED, "n1", "m") == 3
    assert not exporter.state.nodes["n1"].is_doubled(exporter.now)


def test_silent_node_makes_room_for_the_next(exporter: Exporter) -> None:
    """A node that hangs with its connection open loses its name after the timeout."""
    exporter.take(pack_batch(*tokens(1)), 1)
    assert exporter.take(pack_batch(*tokens(1), session="s2"), 2, 1).error == "conflict"
    exporter.wait(TIMEOUT_SECONDS + 1)
    assert not exporter.take(pack_batch(*tokens(1), session="s2"), 2, 1).error


def test_reconnected_node_is_the_same(exporter: Exporter) -> None:
    """A session that reconnects is the same node."""
    exporter.take(pack_batch(*tokens(1)), 1)
    assert not exporter.take(pack_batch(*tokens(1), first=2), 2, 1).error


def test_loss_of_a_forgotten_session_stays_told(exporter: Exporter) -> None:
    """Lost events stay counted across any number of restarts."""
    exporter.take(pack_batch(*tokens(1), first=4))
    for run in range(20):
        assert not exporter.take(pack_batch(*tokens(1), session=f"later {run}"), 2 + run).error
    assert exporter.number(LOST, "n1") == 3


class Telemetry:
    """A node's outbox and an exporter, with a wire that loses messages on demand."""

    def __init__(self) -> None:
        self.exporter = Exporter()
        self.runs = 0
        self.counted = b""
        self.start()

    def start(self) -> None:
        """Start or restart the node; a killed node loses what it had not sent."""
        self.runs += 1
        self.outbox = Outbox("n1", f"s{self.runs}", 0.0, events_limit=6, backlog_bytes=200)
        self.in_run = 0

    def emit(self, count: int) -> None:
        """Emit events; the model's name tells which run they are from."""
        for _ in range(count):
            self.outbox.emit(TokensGenerated(f"run{self.runs}", 1))
            self.in_run += 1

    def emit_large(self) -> None:
        """Emit an event above the size limit."""
        self.outbox.emit(TokensGenerated("x" * wire.EVENT_BYTES, 1))
        self.in_run += 1

    def lose_request(self) -> None:
        """Send a batch that does not arrive."""
        self.outbox.next_batch(0.0)

    def lose_reply(self) -> None:
        """Send a batch whose reply does not arrive."""
        self.counted = self.outbox.next_batch(0.0)
        self.exporter.take(self.counted, self.runs)

    def exchange(self) -> None:
        """Send a batch whose reply arrives."""
        reply = self.exporter.take(self.outbox.next_batch(0.0), self.runs)
        self.outbox.acknowledge(rejected=bool(reply.error))

    def refuse(self) -> None:
        """Refuse a batch, as one of another protocol is, unless it was counted before."""
        if self.outbox.next_batch(0.0) != self.counted:
            self.outbox.acknowledge(rejected=True)

    def flush(self) -> Iterator[None]:
        """Exchange batches until nothing is left, then say goodbye."""
        while not self.outbox.empty:
            self.exchange()
            yield
        self.exporter.take(self.outbox.next_batch(0.0, goodbye=True), self.runs)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.integers(1, 9)),
        st.sampled_from(
            [
                ("emit_large",),
                ("lose_request",),
                ("lose_reply",),
                ("exchange",),
                ("exchange",),
                ("refuse",),
                ("restart",),
            ]
        ),
    ),
    max_size=30,
)


@hypothesis.settings(max_examples=200)
@given(operations)
def test_emitted_equals_applied_and_dropped(course: list[tuple[Any, ...]]) -> None:
    """Each event is counted exactly once, whatever is lost, repeated or refused.

    The model: the exporter has counted, for each run, what the node emitted minus what it dropped.
    """
    telemetry = Telemetry()
    emitted = 0
    for name, *arguments in [*course, ("restart",)]:
        if name != "restart":
            getattr(telemetry, name)(*arguments)
            assert telemetry.exporter.number(LOST, "n1") in (0, None)
            continue
        for _ in telemetry.flush():
            assert telemetry.exporter.number(LOST, "n1") == 0
        emitted += telemetry.in_run
        telemetry.start()
    shown = take_cut(telemetry.exporter.state).numbers
    counted = sum(shown[TOKENS_GENERATED].values())
    dropped = sum(shown[DROPPED].values())
    assert telemetry.exporter.number(EMITTED, "n1") == emitted
    assert counted + dropped == emitted
    assert telemetry.exporter.events("TokensGenerated") == counted
    assert telemetry.exporter.number(LOST, "n1") == 0


@hypothesis.settings(max_examples=100)
@given(operations)
def test_crash_of_the_node_loses_only_what_was_not_sent(course: list[tuple[Any, ...]]) -> None:
    """A killed node loses only what it had not sent, and nothing is counted twice.

    The model: a batch that arrived is counted once, however often it was sent without a reply.
    """
    telemetry = Telemetry()
    arrived: dict[tuple[str, int], Event] = {}
    for name, *arguments in course:
        if name == "restart":
            telemetry.start()
            continue
        if name in ("exchange", "lose_reply"):
            batch = msgspec.msgpack.decode(telemetry.outbox.next_batch(0.0), type=wire.Batch)
            happened = msgspec.msgpack.decode(batch.events, type=list[AnyEvent])
            for sequence, event in enumerate(happened, batch.first_sequence):
                arrived[batch.session, sequence] = event
        getattr(telemetry, name)(*arguments)
    shown = take_cut(telemetry.exporter.state).numbers[TOKENS_GENERATED]
    expected = Counter(
        event.model_id for event in arrived.values() if isinstance(event, TokensGenerated)
    )
    assert {labels[1]: count for labels, count in shown.items()} == dict(expected)
