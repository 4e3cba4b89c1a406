"""The state counts events, stays within its budget, and never counts backwards."""

import itertools
import unicodedata
from bisect import bisect_left
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.journal.snapshot import freeze, pack, restore_into
from exporter.metrics import catalogue as c
from exporter.metrics.catalogue import FAMILIES
from exporter.metrics.cut import take_cut
from exporter.metrics.nodes import Node, Session
from exporter.metrics.state import LABEL_CHARACTERS, State, clean_label
from exporter.web.exposition import Wanted, render
from shared.events.engine import EngineSampled
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.events.mesh import PeerAnswered, PeerChanged, PeerForgotten
from shared.events.models import LayersPlanned, ModelLoadFailed, ModelUnloaded
from shared.events.node import NodeState, NodeStateChanged
from shared.events.requests import ErrorReason, InferenceFinished, RequestStatus, TokensGenerated
from tests.builders import every_event, finished, forwarded, histogram, number
from tests.whole_node import whole_node


def apply(state: State, *happened: Event) -> tuple[Node, Session]:
    node = state.node("n1")
    node.up = True
    session = node.sessions.setdefault("s1", Session("s1"))
    state.apply(node, session, happened)
    return node, session


def shown(state: State, family: c.Family) -> dict[tuple[str, ...], float]:
    return take_cut(state).numbers[family]


def test_every_event_moves_what_it_means() -> None:
    """Each kind of event moves the metrics that belong to it."""
    state = State()
    apply(state, *every_event()[:-1])
    model = ("n1", "m")
    expected: dict[tuple[c.Family, tuple[str, ...]], float] = {
        (c.NODE_START_TIME, ("n1",)): 1.5e9,
        (c.NODE_INFO, ("n1", "0.1.0", "3.11.7", "ctransformers")): 1,
        (c.NODE_STATUS, ("n1",)): 1,
        (c.NODE_STATE, ("n1", "online")): 1,
        (c.NODE_RESOURCES, ("n1", "used_layers")): 8,
        (c.NODE_UPTIME, ("n1",)): 9.5,
        (c.MEMORY, ("n1", "swap")): 4096,
        (c.CPU, ("n1", "host")): 50,
        (c.CPU_SECONDS, ("n1", "engine")): 7.5,
        (c.MAJOR_FAULTS, ("n1", "node")): 3,
        (c.TASKS, ("n1",)): 11,
        (c.WORKER_THREADS, ("n1", "total")): 40,
        (c.MODEL_LOADS, (*model, "ok")): 1,
        (c.MODEL_LOADS, (*model, "error")): 1,
        (c.MODELS_LOADED, ("n1",)): 1,
        (c.MODEL_SIZE, model): 2**24,
        (c.LAYERS_ALLOCATED, model): 8,
        (c.MODEL_INFO, (*model, "llama", "Q8_0", "ctransformers", "b7")): 1,
        (c.ENGINE_MEMORY, (*model, "CPU")): 2**20,
        (c.ENGINE_CONTEXT, (*model, "used")): 100,
        (c.ENGINE_CONTEXT, (*model, "held")): 150,
        (c.ENGINE_CONTEXT, (*model, "capacity")): 4096,
        (c.ENGINE_CONTEXT_USAGE, model): 100 / 4096,
        (c.TOKENS_SPECULATED, (*model, "drafted")): 9,
        (c.TOKENS_SPECULATED, (*model, "accepted")): 6,
        (c.ENGINE_RESTARTS, (*model, "crashed")): 1,
        (c.REQUESTS_IN_FLIGHT, model): 2,
        (c.QUEUE_DEPTH, model): 1,
        (c.SLOTS, (*model, "busy")): 1,
        (c.ENGINE_PROGRESS, model): 1.5e9,
        (c.TOKENS_GENERATED, model): 1,
        (c.REQUESTS, (*model, "ok")): 1,
        (c.FINISHES, (*model, "stop")): 1,
        (c.PROMPT_TOKENS, model): 5,
        (c.PROMPT_TOKENS_CACHED, model): 2,
        (c.HTTP_REQUESTS, ("n1", "/v1/completions", "POST", "200")): 1,
        (c.RPC_REQUESTS, ("n1", "distributed_llm.v1.Inference/Generate", "ok")): 1,
        (c.RESUMED, (*model, "crashed")): 1,
        (c.FORWARDED, (*model, "ended")): 1,
        (c.NETWORK_MESSAGES, ("n1", "sent", "survey")): 3,
        (c.NETWORK_BYTES, ("n1", "sent")): 600,
        (c.NETWORK_ERRORS, ("n1", "unauthenticated")): 2,
        (c.NETWORK_CONNECTIONS, ("n1", "alive")): 2,
        (c.NETWORK_CONNECTIONS, ("n1", "suspect")): 1,
        (c.PEER_STATUS, ("n1", "n2")): 2,
        (c.LAYERS_UNSERVED, model): 3,
    }
    found = {key: number(state, key[0], *key[1]) for key in expected}
    assert found == expected
    sums: dict[tuple[c.Family, tuple[str, ...]], float] = {
        (c.LOOP_LAG, ("n1",)): 0.002,
        (c.MODEL_LOAD_DURATION, model): 1.75,
        (c.LATENCY, (*model, "ok")): 2,
        (c.FIRST_TOKEN, model): 0.75,
        (c.PER_TOKEN, model): 0.25,
        (c.INTER_TOKEN, model): 0.25,
        (c.ENGINE_SEQUENCES, model): 3,
        (c.QUEUE, model): 0.25,
        (c.PREFILL, model): 0.5,
        (c.DECODE, model): 1.25,
        (c.REQUEST_PROMPT_TOKENS, model): 5,
        (c.REQUEST_OUTPUT_TOKENS, model): 6,
        (c.HTTP_DURATION, ("n1", "/v1/completions", "POST", "200")): 0.75,
        (c.RPC_LATENCY, ("n1", "distributed_llm.v1.Inference/Generate", "ok")): 0.75,
        (c.NETWORK_LATENCY, ("n1", "n2", "survey")): 0.002,
    }
    assert {key: histogram(state, key[0], *key[1]).sum for key in sums} == sums


def test_each_gap_between_tokens_counts() -> None:
    """The gaps between the tokens of one event are observed one by one."""
    state = State()
    apply(state, TokensGenerated("m", 3, (5.0, 5.002, 5.004, 9.004)))
    apply(state, TokensGenerated("m", 2, (1.0, 1.002)))
    kept = histogram(state, c.INTER_TOKEN, "n1", "m")
    assert kept.counts[bisect_left(c.INTER_TOKEN.buckets, 0.002)] == 3
    assert kept.counts[bisect_left(c.INTER_TOKEN.buckets, 4.0)] == 1
    assert sum(kept.counts) == 4
    assert kept.sum == pytest.approx(4.006)
    assert number(state, c.TOKENS_GENERATED, "n1", "m") == 5


@pytest.mark.parametrize("times", [(5.0, 4.0), (5.0, float("nan")), (5.0, float("inf"))])
def test_impossible_times_of_tokens_are_invalid(times: tuple[float, ...]) -> None:
    """Tokens that were drawn at impossible times move nothing."""
    state = State()
    apply(state, TokensGenerated("m", 1, times))
    assert number(state, c.TOKENS_GENERATED, "n1", "m") is None
    assert number(state, c.EVENTS, "n1", "invalid") == 1


def test_snapshot_leaves_out_series_with_other_labels() -> None:
    """A family whose labels have changed since the snapshot begins without its old series."""
    before, after = State(), State()
    apply(before, *every_event()[:-1])
    snapshot = freeze(before)
    old = {labels[:-1]: value for labels, value in snapshot.numbers[c.MODEL_INFO.name].items()}
    snapshot.numbers[c.MODEL_INFO.name] = old
    restore_into(after, pack(snapshot))
    assert shown(after, c.MODEL_INFO) == {}
    assert shown(after, c.MODEL_SIZE) == shown(before, c.MODEL_SIZE)


def test_what_an_engine_does_not_report_has_no_series() -> None:
    """A sample has the series of what its engine knows; an idle engine decodes nothing together."""
    state = State()
    apply(state, EngineSampled("m", 0, None, 5))
    assert shown(state, c.ENGINE_CONTEXT) == {("n1", "m", "held"): 5}
    assert not take_cut(state).histograms[c.ENGINE_SEQUENCES]


def test_no_event_goes_by_unnoticed() -> None:
    """Each kind of event changes what is shown beyond its own event count."""
    state = State()
    happened = [e for e in every_event() if not isinstance(e, PeerForgotten)]
    happened.insert(-1, PeerForgotten("n2"))
    assert {type(event) for event in happened} == set(get_args(AnyEvent))
    for event in happened:
        before = moved(state), [dict(node.pages) for node in state.nodes.values()]
        apply(state, event)
        after = moved(state), [dict(node.pages) for node in state.nodes.values()]
        assert after != before, event


def moved(state: State) -> list[object]:
    """Return all series except those that count the events themselves."""
    cut = take_cut(state)
    numbers = [(f.name, s) for f, s in cut.numbers.items() if f not in (c.EVENTS, c.SERIES)]
    sums = [
        (f.name, labels, one.sum, tuple(one.counts))
        for f, series in cut.histograms.items()
        for labels, one in series.items()
    ]
    return [*numbers, *sums]


@given(st.lists(st.floats(0, 3000), min_size=1, max_size=40))
def test_histogram_counts_each_value_in_its_bucket(values: list[float]) -> None:
    """A value counts in the first bucket whose bound it does not exceed."""
    state = State()
    for value in values:
        state.move(c.LATENCY, ("n1", "m", "ok"), value)
    kept = histogram(state, c.LATENCY, "n1", "m", "ok")
    bounds = (*c.LATENCY.buckets, float("inf"))
    reached = list(itertools.accumulate(kept.counts))
    assert reached == [sum(value <= bound for value in values) for bound in bounds]
    assert kept.sum == pytest.approx(sum(values))


def test_closed_vocabularies_start_at_0() -> None:
    """Counters with closed labels start at 0, so that `rate()` works from the first scrape."""
    state = State()
    state.node("n1")
    assert number(state, c.HEALTH_CHECKS, "render", "failed") == 0
    assert number(state, c.REJECTED, "malformed") == 0
    assert number(state, c.DROPPED, "n1", "buffer_full") == 0
    assert histogram(state, c.LOOP_LAG, "n1").sum == 0
    assert shown(state, c.REQUESTS) == {}
    apply(state, every_event()[7])
    assert {labels[2] for labels in shown(state, c.REQUESTS)} == set(
        c.REQUESTS.vocabulary["status"]
    )
    assert set(shown(state, c.REQUESTS).values()) == {0}


def test_node_that_was_never_heard_is_unknown() -> None:
    """A node that was never heard has status 3 and no times."""
    state = State()
    state.node("n1")
    assert number(state, c.NODE_STATUS, "n1") == 3
    assert number(state, c.NODE_UP, "n1") == 0
    assert number(state, c.LAST_EVENT, "n1") is None


@pytest.mark.parametrize(
    ("state_name", "code"),
    [("offline", 0), ("online", 1), ("busy", 2), ("unknown", 3), ("draining", 2)],
)
def test_node_status_is_the_contracts_code(state_name: NodeState, code: int) -> None:
    """Each status has its number, and exactly one of the one-hot series is 1."""
    state = State()
    apply(state, NodeStateChanged(state_name))
    assert number(state, c.NODE_STATUS, "n1") == code
    hot = {labels[1] for labels, value in shown(state, c.NODE_STATE).items() if value == 1}
    assert hot == {state_name}


def test_rejected_request_has_no_phases() -> None:
    """A rejected request is counted, but has no durations or tokens."""
    state = State()
    event = finished()
    apply(
        state,
        InferenceFinished("m", "rejected", None, 0, 0, 0, 0, None, 0, 0, 0, 0),
        event,
    )
    assert number(state, c.REQUESTS, "n1", "m", "rejected") == 1
    assert sum(histogram(state, c.QUEUE, "n1", "m").counts) == 1
    assert sum(shown(state, c.FINISHES).values()) == 1


@pytest.mark.parametrize("status", ["cancelled", "timeout", "error"])
def test_discarded_tokens_count_by_the_reason(status: RequestStatus) -> None:
    """Discarded tokens count by reason."""
    state = State()
    apply(state, InferenceFinished("m", status, "cancelled", 1, 0, 0, 1, 0.5, 3, 0, 7, 6))
    assert number(state, c.TOKENS_DISCARDED, "n1", "m", status) == 6


@pytest.mark.parametrize(("reason", "shown_as"), [("memory", "memory"), (None, "other")])
def test_error_counts_by_its_reason(reason: ErrorReason | None, shown_as: str) -> None:
    """A failed request counts by its reason; an older node reports none."""
    state = State()
    failed = msgspec.structs.replace(finished(), status="error", reason=reason)
    apply(state, finished(), failed)
    assert number(state, c.ERRORS, "n1", "m", shown_as) == 1
    assert sum(shown(state, c.ERRORS).values()) == 1


@pytest.mark.parametrize(("status", "result"), [("error", "ended"), (None, "lost")])
def test_forward_counts_by_its_result(status: RequestStatus | None, result: str) -> None:
    """A forward ended with the request, or with the loss of its peer."""
    state = State()
    apply(state, msgspec.structs.replace(forwarded(), status=status))
    assert number(state, c.FORWARDED, "n1", "m", result) == 1
    assert number(state, c.REQUESTS, "n1", "m", "ok") is None


def test_lone_token_has_no_time_per_token() -> None:
    """The time per token excludes the first token."""
    state = State()
    apply(state, InferenceFinished("m", "ok", "length", 1, 0, 0, 1, 0.5, 3, 0, 1, 0))
    assert c.PER_TOKEN not in {
        family for family, series in take_cut(state).histograms.items() if series
    }


def test_total_only_grows() -> None:
    """A total moves by its growth; an older or repeated value adds nothing."""
    state = State()
    session = Session("s1")
    for total in (5, 3, 5, 8, 0):
        state.move_total(session, c.EMITTED, ("n1",), total)
    assert number(state, c.EMITTED, "n1") == 8


def test_total_of_a_new_session_is_added() -> None:
    """A restarted node counts from 0 again, and the counter continues."""
    state = State()
    state.move_total(Session("s1"), c.EMITTED, ("n1",), 5)
    state.move_total(Session("s2"), c.EMITTED, ("n1",), 2)
    assert number(state, c.EMITTED, "n1") == 7


def test_unloaded_model_takes_its_gauges_along() -> None:
    """An unloaded model loses its size, queue and slots; its counters stay."""
    state = State()
    apply(state, *every_event("gone"), *every_event("here")[:-1])
    cut = take_cut(state)
    of_gone = {
        family.kind
        for families in (cut.numbers, cut.histograms)
        for family in families
        if any(labels[1:2] == ("gone",) for labels in families[family])
        and family is not c.LAYERS_UNSERVED
    }
    assert of_gone == {"counter", "histogram"}
    assert number(state, c.MODEL_UNLOADS, "n1", "gone", "requested") == 1
    assert number(state, c.MODELS_LOADED, "n1") == 1
    assert number(state, c.QUEUE_DEPTH, "n1", "here") == 1
    assert number(state, c.NODE_UPTIME, "n1") == 9.5


@pytest.mark.parametrize("end", [ModelLoadFailed("m", 1.0), ModelUnloaded("m", "idle")])
def test_layers_without_a_node_are_told_while_loads_fail(end: Event) -> None:
    """A failed load does not change `layers_unserved`, which the mesh reports."""
    state = State()
    apply(state, LayersPlanned("m", 8, 3), end)
    assert number(state, c.LAYERS_UNSERVED, "n1", "m") == 3
    state.forget_levels("n1")
    assert number(state, c.LAYERS_UNSERVED, "n1", "m") is None


def test_unloaded_model_takes_only_its_own_gauges_along() -> None:
    """Unloading removes the gauges of the model only, even if it is named like another label."""
    state = State()
    apply(state, *every_event("rss"))
    assert number(state, c.MEMORY, "n1", "rss") == 2**20


@pytest.mark.parametrize("model_id", ["tab\t", "m" * (LABEL_CHARACTERS + 1)])
def test_unloaded_model_of_an_unclean_name_takes_its_gauges_along(model_id: str) -> None:
    """A model whose name was cleaned loses its gauges as well."""
    state = State()
    apply(state, *every_event(model_id))
    assert shown(state, c.QUEUE_DEPTH) == {}


def test_label_past_the_budget_folds_into_other() -> None:
    """Above the budget, new values fold into `other`, and the folding is counted."""
    state = State(budget=40)
    for route in [*range(42), 0, 43]:
        state.move(c.HTTP_REQUESTS, ("n1", f"/{route}", "GET", "200"), 1)
        state.move(c.HTTP_DURATION, ("n1", f"/{route}", "GET", "200"), 0.5)
    counted = shown(state, c.HTTP_REQUESTS)
    other = ("n1", "other", "other", "other")
    assert (counted["n1", "/0", "GET", "200"], counted["n1", "/39", "GET", "200"]) == (2, 1)
    assert (counted[other], sum(counted.values()), len(counted)) == (3, 44, 41)
    assert sum(histogram(state, c.HTTP_DURATION, *other).counts) == 3
    assert shown(state, c.FOLDED) == {
        (family.name, label): 3
        for family in (c.HTTP_REQUESTS, c.HTTP_DURATION)
        for label in ("route", "method", "status")
    }


def test_closed_labels_and_nodes_do_not_fold() -> None:
    """Closed labels and node names never fold."""
    state = State(budget=3)
    for model_id in ("a", "b"):
        for status in c.REQUESTS.vocabulary["status"]:
            state.move(c.REQUESTS, ("n1", model_id, status), 1)
    counted = shown(state, c.REQUESTS)
    assert {labels[0] for labels in counted} == {"n1"}
    assert {labels[2] for labels in counted} == set(c.REQUESTS.vocabulary["status"])
    assert sum(counted.values()) == 10


@pytest.mark.parametrize("budget", [1, 2])
def test_smallest_budget_holds(budget: int) -> None:
    """The smallest budgets hold."""
    state = State(budget=budget)
    apply(state, *every_event("a"), *every_event("b"), *every_event("c"))
    for route in "abcdef":
        state.move(c.HTTP_REQUESTS, ("n1", route, "GET", "200"), 1)
    assert sum(shown(state, c.HTTP_REQUESTS).values()) == 9


@given(st.text())
def test_clean_label_is_printable_and_bounded(value: str) -> None:
    """A cleaned label is printable and bounded, and does not change when cleaned again."""
    cleaned = clean_label(value)
    assert len(cleaned) <= LABEL_CHARACTERS
    assert not {unicodedata.category(character) for character in cleaned} & {"Cc", "Cs"}
    assert clean_label(cleaned) == cleaned
    cleaned.encode()


def test_clean_label_leaves_good_text_alone() -> None:
    """Letters of any language are kept."""
    assert clean_label('modèle "7B" \\ 中') == 'modèle "7B" \\ 中'
    assert clean_label("a\nb\x00") == "a\ufffdb\ufffd"


def peers_shown(state: State) -> set[tuple[str, str]]:
    """Return node and peer of every series of a peer."""
    cut = take_cut(state)
    series = [*cut.numbers[c.PEER_STATUS], *cut.histograms[c.NETWORK_LATENCY]]
    return {(labels[0], labels[1]) for labels in series}


def test_forgotten_peer_leaves_no_series() -> None:
    """A forgotten peer loses all its series, and no others are lost."""
    state = State()
    met = [
        event
        for peer in ("n2", "n3")
        for event in (
            PeerChanged(peer, "alive", "online"),
            PeerAnswered(peer, "survey", 0.002),
            PeerAnswered(peer, "forward", 0.2),
        )
    ]
    apply(state, *met)
    assert peers_shown(state) == {("n1", "n2"), ("n1", "n3")}
    apply(state, PeerForgotten("n2"))
    assert peers_shown(state) == {("n1", "n3")}
    apply(state, PeerForgotten("never met"))
    state.forget_peer("another node")
    assert peers_shown(state) == {("n1", "n3")}
    apply(state, PeerAnswered("n2", "survey", 0.002))
    assert sum(histogram(state, c.NETWORK_LATENCY, "n1", "n2", "survey").counts) == 1


def test_cut_does_not_change_afterwards() -> None:
    """A cut does not change while it is rendered."""
    state = State()
    apply(state, finished())
    cut = take_cut(state)
    apply(state, finished())
    assert cut.numbers[c.REQUESTS]["n1", "m", "ok"] == 1
    assert sum(cut.histograms[c.LATENCY]["n1", "m", "ok"].counts) == 1


def test_series_are_counted_by_family() -> None:
    """`exporter_series` counts the series of each family that can grow."""
    state = State()
    apply(state, *every_event()[:-1])
    cut = take_cut(state)
    counted = {labels[0] for labels in cut.numbers[c.SERIES]}
    for family in FAMILIES:
        if family.grows:
            held = cut.histograms.get(family) or cut.numbers.get(family, {})
            assert number(state, c.SERIES, family.name) == len(held)
            counted.remove(family.name)
    assert not counted


def test_node_with_two_models_and_four_peers_has_few_series() -> None:
    """A node with two models and four peers has at most 1,550 series."""
    state = State()
    apply(state, *whole_node())
    kinds = {kind.__name__ for kind in get_args(AnyEvent)} - {"PeerForgotten"}
    assert kinds - {"ModelUnloaded"} <= {labels[1] for labels in shown(state, c.EVENTS)}
    written = render(take_cut(state), Wanted()).body.decode()
    lines = [line for line in written.splitlines() if not line.startswith("#")]
    assert 1000 < len(lines) <= 1550
