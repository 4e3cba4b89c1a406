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
from exporter.metrics.catalogue.api import HTTP_DURATION, HTTP_REQUESTS
from exporter.metrics.catalogue.engine import ENGINE_CONTEXT, ENGINE_SEQUENCES
from exporter.metrics.catalogue.exporter import FOLDED, SERIES
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.health import HEALTH_CHECKS
from exporter.metrics.catalogue.mesh import NETWORK_LATENCY, PEER_STATUS
from exporter.metrics.catalogue.models import (
    LAYERS_UNSERVED,
    MODEL_INFO,
    MODEL_SIZE,
    MODEL_UNLOADS,
    MODELS_LOADED,
)
from exporter.metrics.catalogue.node import NODE_STATE, NODE_STATUS, NODE_UP, NODE_UPTIME
from exporter.metrics.catalogue.requests import (
    ERRORS,
    FINISHES,
    FORWARDED,
    INTER_TOKEN,
    LATENCY,
    PER_TOKEN,
    QUEUE,
    QUEUE_DEPTH,
    REQUESTS,
    TOKENS_DISCARDED,
    TOKENS_GENERATED,
)
from exporter.metrics.catalogue.system import LOOP_LAG, MEMORY
from exporter.metrics.catalogue.telemetry import DROPPED, EMITTED, EVENTS, LAST_EVENT, REJECTED
from exporter.metrics.cut import take_cut
from exporter.metrics.labels import LABEL_CHARACTERS, clean_label
from exporter.metrics.nodes import Node, Session
from exporter.metrics.state import State
from exporter.web.exposition import Wanted, render
from shared.events.api import HttpFinished
from shared.events.engine import EngineSampled
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.events.mesh import PeerAnswered, PeerChanged, PeerForgotten
from shared.events.models import LayersPlanned, ModelLoadFailed, ModelUnloaded
from shared.events.node import NodeState, NodeStateChanged
from shared.events.requests import ErrorReason, InferenceFinished, RequestStatus, TokensGenerated
from tests.builders import every_event, finished, forwarded, histogram, number
from tests.whole_node import whole_node

BY_NAME = {family.name: family for family in FAMILIES}


def apply(state: State, *happened: Event) -> tuple[Node, Session]:
    node = state.node("n1")
    node.up = True
    session = node.sessions.setdefault("s1", Session("s1"))
    state.apply(node, session, happened)
    return node, session


def shown(state: State, family: Family) -> dict[tuple[str, ...], float]:
    return take_cut(state).numbers[family]


def test_every_event_moves_what_it_means() -> None:
    """Each kind of event moves the metrics that belong to it."""
    state = State()
    apply(state, *every_event()[:-1])
    model = ("n1", "m")
    expected: dict[tuple[str, tuple[str, ...]], float] = {
        ("node_start_time_seconds", ("n1",)): 1.5e9,
        ("node_info", ("n1", "0.1.0", "3.11.7", "ctransformers")): 1,
        ("node_status", ("n1",)): 1,
        ("node_state", ("n1", "online")): 1,
        ("node_resources", ("n1", "used_layers")): 8,
        ("node_uptime_seconds", ("n1",)): 9.5,
        ("system_memory_usage_bytes", ("n1", "swap")): 4096,
        ("system_cpu_usage_percent", ("n1", "host")): 50,
        ("system_cpu_seconds_total", ("n1", "engine")): 7.5,
        ("system_major_page_faults_total", ("n1", "node")): 3,
        ("system_goroutines", ("n1",)): 11,
        ("runtime_worker_threads", ("n1", "total")): 40,
        ("model_loads_total", (*model, "ok")): 1,
        ("model_loads_total", (*model, "error")): 1,
        ("models_loaded", ("n1",)): 1,
        ("model_size_bytes", model): 2**24,
        ("layers_allocated", model): 8,
        ("model_info", (*model, "llama", "Q8_0", "ctransformers", "b7")): 1,
        ("engine_memory_bytes", (*model, "CPU")): 2**20,
        ("engine_context_tokens", (*model, "used")): 100,
        ("engine_context_tokens", (*model, "held")): 150,
        ("engine_context_tokens", (*model, "capacity")): 4096,
        ("engine_context_usage_ratio", model): 100 / 4096,
        ("inference_speculative_tokens_total", (*model, "drafted")): 9,
        ("inference_speculative_tokens_total", (*model, "accepted")): 6,
        ("engine_restarts_total", (*model, "crashed")): 1,
        ("inference_requests_in_flight", model): 2,
        ("inference_queue_depth", model): 1,
        ("inference_slots", (*model, "busy")): 1,
        ("engine_last_progress_timestamp_seconds", model): 1.5e9,
        ("inference_tokens_generated", model): 1,
        ("inference_requests_total", (*model, "ok")): 1,
        ("inference_finish_total", (*model, "stop")): 1,
        ("inference_prompt_tokens_total", model): 5,
        ("inference_prompt_tokens_cached_total", model): 2,
        ("http_requests_total", ("n1", "/v1/completions", "POST", "200")): 1,
        ("rpc_requests_total", ("n1", "distributed_llm.v1.Inference/Generate", "ok")): 1,
        ("inference_resumed_total", (*model, "crashed")): 1,
        ("inference_forwarded_total", (*model, "ended")): 1,
        ("network_messages_total", ("n1", "sent", "survey")): 3,
        ("network_bytes_total", ("n1", "sent")): 600,
        ("network_errors_total", ("n1", "unauthenticated")): 2,
        ("network_connections", ("n1", "alive")): 2,
        ("network_connections", ("n1", "suspect")): 1,
        ("peer_status", ("n1", "n2")): 2,
        ("layers_unserved", model): 3,
    }
    found = {key: number(state, BY_NAME[key[0]], *key[1]) for key in expected}
    assert found == expected
    sums: dict[tuple[str, tuple[str, ...]], float] = {
        ("runtime_event_loop_lag_seconds", ("n1",)): 0.002,
        ("model_load_duration_seconds", model): 1.75,
        ("inference_latency_seconds", (*model, "ok")): 2,
        ("inference_time_to_first_token_seconds", model): 0.75,
        ("inference_time_per_output_token_seconds", model): 0.25,
        ("inference_inter_token_seconds", model): 0.25,
        ("engine_sequences", model): 3,
        ("inference_queue_seconds", model): 0.25,
        ("inference_prefill_seconds", model): 0.5,
        ("inference_decode_seconds", model): 1.25,
        ("inference_request_prompt_tokens", model): 5,
        ("inference_request_output_tokens", model): 6,
        ("http_request_duration_seconds", ("n1", "/v1/completions", "POST", "200")): 0.75,
        ("rpc_latency_seconds", ("n1", "distributed_llm.v1.Inference/Generate", "ok")): 0.75,
        ("network_latency_seconds", ("n1", "n2", "survey")): 0.002,
    }
    assert {key: histogram(state, BY_NAME[key[0]], *key[1]).sum for key in sums} == sums


def test_each_gap_between_tokens_counts() -> None:
    """The gaps between the tokens of one event are observed one by one."""
    state = State()
    apply(state, TokensGenerated("m", 3, (5.0, 5.002, 5.004, 9.004)))
    apply(state, TokensGenerated("m", 2, (1.0, 1.002)))
    kept = histogram(state, INTER_TOKEN, "n1", "m")
    assert kept.counts[bisect_left(INTER_TOKEN.buckets, 0.002)] == 3
    assert kept.counts[bisect_left(INTER_TOKEN.buckets, 4.0)] == 1
    assert sum(kept.counts) == 4
    assert kept.sum == pytest.approx(4.006)
    assert number(state, TOKENS_GENERATED, "n1", "m") == 5


@pytest.mark.parametrize("times", [(5.0, 4.0), (5.0, float("nan")), (5.0, float("inf"))])
def test_impossible_times_of_tokens_are_invalid(times: tuple[float, ...]) -> None:
    """Tokens that were drawn at impossible times move nothing."""
    state = State()
    apply(state, TokensGenerated("m", 1, times))
    assert number(state, TOKENS_GENERATED, "n1", "m") is None
    assert number(state, EVENTS, "n1", "invalid") == 1


def test_snapshot_leaves_out_series_with_other_labels() -> None:
    """A family whose labels have changed since the snapshot begins without its old series."""
    before, after = State(), State()
    apply(before, *every_event()[:-1])
    snapshot = freeze(before)
    old = {labels[:-1]: value for labels, value in snapshot.numbers[MODEL_INFO.name].items()}
    snapshot.numbers[MODEL_INFO.name] = old
    restore_into(after, pack(snapshot))
    assert shown(after, MODEL_INFO) == {}
    assert shown(after, MODEL_SIZE) == shown(before, MODEL_SIZE)


def test_what_an_engine_does_not_report_has_no_series() -> None:
    """A sample has the series of what its engine knows; an idle engine decodes nothing together."""
    state = State()
    apply(state, EngineSampled("m", 0, None, 5))
    assert shown(state, ENGINE_CONTEXT) == {("n1", "m", "held"): 5}
    assert not take_cut(state).histograms[ENGINE_SEQUENCES]


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
    numbers = [(f.name, s) for f, s in cut.numbers.items() if f not in (EVENTS, SERIES)]
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
        state.move(LATENCY, ("n1", "m", "ok"), value)
    kept = histogram(state, LATENCY, "n1", "m", "ok")
    bounds = (*LATENCY.buckets, float("inf"))
    reached = list(itertools.accumulate(kept.counts))
    assert reached == [sum(value <= bound for value in values) for bound in bounds]
    assert kept.sum == pytest.approx(sum(values))


def test_closed_vocabularies_start_at_0() -> None:
    """Counters with closed labels start at 0, so that `rate()` works from the first scrape."""
    state = State()
    state.node("n1")
    assert number(state, HEALTH_CHECKS, "render", "failed") == 0
    assert number(state, REJECTED, "malformed") == 0
    assert number(state, DROPPED, "n1", "buffer_full") == 0
    assert histogram(state, LOOP_LAG, "n1").sum == 0
    assert shown(state, REQUESTS) == {}
    apply(state, every_event()[7])
    assert {labels[2] for labels in shown(state, REQUESTS)} == set(REQUESTS.vocabulary["status"])
    assert set(shown(state, REQUESTS).values()) == {0}


def test_node_that_was_never_heard_is_unknown() -> None:
    """A node that was never heard has status 3 and no times."""
    state = State()
    state.node("n1")
    assert number(state, NODE_STATUS, "n1") == 3
    assert number(state, NODE_UP, "n1") == 0
    assert number(state, LAST_EVENT, "n1") is None


@pytest.mark.parametrize(
    ("state_name", "code"),
    [("offline", 0), ("online", 1), ("busy", 2), ("unknown", 3), ("draining", 2)],
)
def test_node_status_is_the_contracts_code(state_name: NodeState, code: int) -> None:
    """Each status has its number, and exactly one of the one-hot series is 1."""
    state = State()
    apply(state, NodeStateChanged(state_name))
    assert number(state, NODE_STATUS, "n1") == code
    hot = {labels[1] for labels, value in shown(state, NODE_STATE).items() if value == 1}
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
    assert number(state, REQUESTS, "n1", "m", "rejected") == 1
    assert sum(histogram(state, QUEUE, "n1", "m").counts) == 1
    assert sum(shown(state, FINISHES).values()) == 1


@pytest.mark.parametrize("status", ["cancelled", "timeout", "error"])
def test_discarded_tokens_count_by_the_reason(status: RequestStatus) -> None:
    """Discarded tokens count by reason."""
    state = State()
    apply(state, InferenceFinished("m", status, "cancelled", 1, 0, 0, 1, 0.5, 3, 0, 7, 6))
    assert number(state, TOKENS_DISCARDED, "n1", "m", status) == 6


@pytest.mark.parametrize(("reason", "shown_as"), [("memory", "memory"), (None, "other")])
def test_error_counts_by_its_reason(reason: ErrorReason | None, shown_as: str) -> None:
    """A failed request counts by its reason; an older node reports none."""
    state = State()
    failed = msgspec.structs.replace(finished(), status="error", reason=reason)
    apply(state, finished(), failed)
    assert number(state, ERRORS, "n1", "m", shown_as) == 1
    assert sum(shown(state, ERRORS).values()) == 1


@pytest.mark.parametrize(("status", "result"), [("error", "ended"), (None, "lost")])
def test_forward_counts_by_its_result(status: RequestStatus | None, result: str) -> None:
    """A forward ended with the request, or with the loss of its peer."""
    state = State()
    apply(state, msgspec.structs.replace(forwarded(), status=status))
    assert number(state, FORWARDED, "n1", "m", result) == 1
    assert number(state, REQUESTS, "n1", "m", "ok") is None


def test_lone_token_has_no_time_per_token() -> None:
    """The time per token excludes the first token."""
    state = State()
    apply(state, InferenceFinished("m", "ok", "length", 1, 0, 0, 1, 0.5, 3, 0, 1, 0))
    assert PER_TOKEN not in {
        family for family, series in take_cut(state).histograms.items() if series
    }


def test_total_only_grows() -> None:
    """A total moves by its growth; an older or repeated value adds nothing."""
    state = State()
    session = Session("s1")
    for total in (5, 3, 5, 8, 0):
        state.move_total(session, EMITTED, ("n1",), total)
    assert number(state, EMITTED, "n1") == 8


def test_total_of_a_new_session_is_added() -> None:
    """A restarted node counts from 0 again, and the counter continues."""
    state = State()
    state.move_total(Session("s1"), EMITTED, ("n1",), 5)
    state.move_total(Session("s2"), EMITTED, ("n1",), 2)
    assert number(state, EMITTED, "n1") == 7


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
        and family is not LAYERS_UNSERVED
    }
    assert of_gone == {"counter", "histogram"}
    assert number(state, MODEL_UNLOADS, "n1", "gone", "requested") == 1
    assert number(state, MODELS_LOADED, "n1") == 1
    assert number(state, QUEUE_DEPTH, "n1", "here") == 1
    assert number(state, NODE_UPTIME, "n1") == 9.5


@pytest.mark.parametrize("end", [ModelLoadFailed("m", 1.0), ModelUnloaded("m", "idle")])
def test_layers_without_a_node_are_told_while_loads_fail(end: Event) -> None:
    """A failed load does not change `layers_unserved`, which the mesh reports."""
    state = State()
    apply(state, LayersPlanned("m", 8, 3), end)
    assert number(state, LAYERS_UNSERVED, "n1", "m") == 3
    state.forget_levels("n1")
    assert number(state, LAYERS_UNSERVED, "n1", "m") is None


def test_unloaded_model_takes_only_its_own_gauges_along() -> None:
    """Unloading removes the gauges of the model only, even if it is named like another label."""
    state = State()
    apply(state, *every_event("rss"))
    assert number(state, MEMORY, "n1", "rss") == 2**20


@pytest.mark.parametrize("model_id", ["tab\t", "m" * (LABEL_CHARACTERS + 1)])
def test_unloaded_model_of_an_unclean_name_takes_its_gauges_along(model_id: str) -> None:
    """A model whose name was cleaned loses its gauges as well."""
    state = State()
    apply(state, *every_event(model_id))
    assert shown(state, QUEUE_DEPTH) == {}


def test_label_past_the_budget_folds_into_other() -> None:
    """Above the budget, new values fold into `other`, and the folding is counted."""
    state = State(budget=40)
    for route in [*range(42), 0, 43]:
        state.move(HTTP_REQUESTS, ("n1", f"/{route}", "GET", "200"), 1)
        state.move(HTTP_DURATION, ("n1", f"/{route}", "GET", "200"), 0.5)
    counted = shown(state, HTTP_REQUESTS)
    other = ("n1", "other", "other", "other")
    assert (counted["n1", "/0", "GET", "200"], counted["n1", "/39", "GET", "200"]) == (2, 1)
    assert (counted[other], sum(counted.values()), len(counted)) == (3, 44, 41)
    assert sum(histogram(state, HTTP_DURATION, *other).counts) == 3
    assert shown(state, FOLDED) == {
        (family.name, label): 3
        for family in (HTTP_REQUESTS, HTTP_DURATION)
        for label in ("route", "method", "status")
    }


def test_each_event_past_the_budget_counts_as_folded() -> None:
    """Events that are counted together fold one by one."""
    state = State(budget=1)
    calls = [HttpFinished(f"/{route}", "GET", 200, 0.5) for route in "abbb"]
    apply(state, *calls)
    assert number(state, FOLDED, HTTP_REQUESTS.name, "route") == 3
    assert number(state, HTTP_REQUESTS, "n1", *["other"] * 3) == 3


def test_closed_labels_and_nodes_do_not_fold() -> None:
    """Closed labels and node names never fold."""
    state = State(budget=3)
    for model_id in ("a", "b"):
        for status in REQUESTS.vocabulary["status"]:
            state.move(REQUESTS, ("n1", model_id, status), 1)
    counted = shown(state, REQUESTS)
    assert {labels[0] for labels in counted} == {"n1"}
    assert {labels[2] for labels in counted} == set(REQUESTS.vocabulary["status"])
    assert sum(counted.values()) == 10


@pytest.mark.parametrize("budget", [1, 2])
def test_smallest_budget_holds(budget: int) -> None:
    """The smallest budgets hold."""
    state = State(budget=budget)
    apply(state, *every_event("a"), *every_event("b"), *every_event("c"))
    for route in "abcdef":
        state.move(HTTP_REQUESTS, ("n1", route, "GET", "200"), 1)
    assert sum(shown(state, HTTP_REQUESTS).values()) == 9


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
    series = [*cut.numbers[PEER_STATUS], *cut.histograms[NETWORK_LATENCY]]
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
    assert sum(histogram(state, NETWORK_LATENCY, "n1", "n2", "survey").counts) == 1


def test_cut_does_not_change_afterwards() -> None:
    """A cut does not change while it is rendered."""
    state = State()
    apply(state, finished())
    cut = take_cut(state)
    apply(state, finished())
    assert cut.numbers[REQUESTS]["n1", "m", "ok"] == 1
    assert sum(cut.histograms[LATENCY]["n1", "m", "ok"].counts) == 1


def test_series_are_counted_by_family() -> None:
    """`exporter_series` counts the series of each family that can grow."""
    state = State()
    apply(state, *every_event()[:-1])
    cut = take_cut(state)
    counted = {labels[0] for labels in cut.numbers[SERIES]}
    for family in FAMILIES:
        if family.grows:
            held = cut.histograms.get(family) or cut.numbers.get(family, {})
            assert number(state, SERIES, family.name) == len(held)
            counted.remove(family.name)
    assert not counted


def test_node_with_two_models_and_four_peers_has_few_series() -> None:
    """A node with two models and four peers has at most 1,550 series."""
    state = State()
    apply(state, *whole_node())
    kinds = {kind.__name__ for kind in get_args(AnyEvent)} - {"PeerForgotten"}
    assert kinds - {"ModelUnloaded"} <= {labels[1] for labels in shown(state, EVENTS)}
    written = render(take_cut(state), Wanted()).body.decode()
    lines = [line for line in written.splitlines() if not line.startswith("#")]
    assert 1000 < len(lines) <= 1550
