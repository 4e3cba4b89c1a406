"""The exposition can be parsed in both formats, and shows what the state holds."""

import gzip
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX
from exporter.metrics.catalogue.requests import LATENCY, QUEUE_DEPTH, TOKENS_GENERATED
from exporter.metrics.cut import Cut, take_cut
from exporter.metrics.nodes import Session
from exporter.metrics.state import State
from exporter.web.exposition import Wanted, render
from exporter.web.registry import families_of
from tests.builders import TRACE, every_event, finished

_written: Callable[[float], str] = floatToGoString
FORMATS = [False, True]
both_formats = pytest.mark.parametrize("openmetrics", FORMATS, ids=["text", "openmetrics"])


def lived_in() -> State:
    """Return a state that has had every event, from two nodes with two models."""
    state = State()
    state.storage.disk_free_bytes, state.storage.disk_total_bytes = 10, 100
    state.web.config_valid = True
    state.web.certificate_expires_at = 1.8e9
    for node_id, model_id in itertools.product(("n1", "n2"), ("m", "other model")):
        node = state.node(node_id)
        node.up = True
        session = node.sessions.setdefault("s1", Session("s1"))
        traced = {"request_id": f"{node_id}-request", "trace": TRACE}
        example = msgspec.structs.replace(finished(model_id), **traced)
        state.apply(node, session, [*every_event(model_id)[:-1], example])
        for family in FAMILIES:
            if not family.derived and family.scope == "exporter":
                labels = tuple(family.vocabulary.get(label, ("x",))[0] for label in family.labels)
                state.move(family, labels, 1)
    return state


def show(cut: Cut, *, openmetrics: bool, names: tuple[str, ...] = ()) -> str:
    rendered = render(cut, Wanted(openmetrics=openmetrics, names=names))
    assert openmetrics == rendered.body.endswith(b"# EOF\n")
    return rendered.body.decode()


def read(text: str, *, openmetrics: bool) -> list[Metric]:
    parse = read_openmetrics if openmetrics else read_text
    return list(parse(text))


def samples(families: Iterable[Metric]) -> list[Sample]:
    return [sample for family in families for sample in family.samples]


@both_formats
def test_every_family_is_shown_as_declared(*, openmetrics: bool) -> None:
    """Each family is shown once, with its type, its help and its labels."""
    state = lived_in()
    shown = {
        family.name: family
        for family in read(show(take_cut(state), openmetrics=openmetrics), openmetrics=openmetrics)
    }
    assert len(shown) == len(FAMILIES)
    for family in FAMILIES:
        metric = shown[PREFIX + family.name.removesuffix("_total")]
        assert (metric.type, metric.documentation) == (family.kind, family.help)
        assert metric.samples
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == set(family.labels)


@both_formats
def test_every_value_is_shown(*, openmetrics: bool) -> None:
    """The parsed numbers are exactly those of the cut."""
    cut = take_cut(lived_in())
    read_back = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for sample in samples(read(show(cut, openmetrics=openmetrics), openmetrics=openmetrics))
    }
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family, series in cut.numbers.items():
        base = PREFIX + family.name.removesuffix("_total")
        name = base + "_total" if family.kind == "counter" else base
        for labels, value in series.items():
            pairs = dict(zip(family.labels, labels, strict=True))
            expected[name, tuple(sorted(pairs.items()))] = value
    for family, kept in cut.histograms.items():
        for labels, histogram in kept.items():
            pairs = dict(zip(family.labels, labels, strict=True))
            key = tuple(sorted(pairs.items()))
            expected[PREFIX + family.name + "_sum", key] = histogram.sum
            expected[PREFIX + family.name + "_count", key] = sum(histogram.counts)
            bounds = [*(repr(float(bound)) for bound in family.buckets), "+Inf"]
            reached = itertools.accumulate(histogram.counts)
            for bound, count in zip(bounds, reached, strict=True):
                with_bound = tuple(sorted({**pairs, "le": bound}.items()))
                expected[PREFIX + family.name + "_bucket", with_bound] = count
    assert read_back == expected


class _Library(Collector):
    """The samples of a cut as a collector of prometheus_client."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def collect(self) -> Iterable[Metric]:
        return families_of(self._cut)


def library_text(cut: Cut, *, openmetrics: bool) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Library(cut))
    if openmetrics:
        return str(generate_openmetrics(registry).decode())  # type: ignore[no-untyped-call]
    return generate_latest(registry).decode()


@both_formats
def test_text_is_what_the_client_library_writes(*, openmetrics: bool) -> None:
    """Families, labels and exemplars are written as prometheus_client writes them."""
    cut = take_cut(lived_in())
    assert any(one.exemplars for one in cut.histograms[LATENCY].values())
    assert show(cut, openmetrics=openmetrics) == library_text(cut, openmetrics=openmetrics)


@given(
    st.text(max_size=20),
    st.text(max_size=20),
    st.lists(st.floats(min_value=0, allow_infinity=False), max_size=5),
)
def test_any_text_is_what_the_client_library_writes(
    model_id: str, request_id: str, values: list[float]
) -> None:
    """Any labels, exemplars and numbers give the same bytes as prometheus_client."""
    state = State()
    for value in values:
        event = msgspec.structs.replace(finished(model_id), seconds=value, request_id=request_id)
        state.apply(state.node("n1"), Session("s1"), [event])
        state.move(QUEUE_DEPTH, ("n1", model_id), value)
        state.move(TOKENS_GENERATED, ("n1", model_id), value)
    cut = take_cut(state)
    for openmetrics in FORMATS:
        assert show(cut, openmetrics=openmetrics) == library_text(cut, openmetrics=openmetrics)


@both_formats
def test_no_series_is_shown_twice(*, openmetrics: bool) -> None:
    """No series is shown twice: Prometheus would refuse the scrape."""
    text = show(take_cut(lived_in()), openmetrics=openmetrics)
    names = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@both_formats
def test_created_series_are_off(*, openmetrics: bool) -> None:
    """There are no `_created` series: they would add a fifth and are not used."""
    assert "_created" not in show(take_cut(lived_in()), openmetrics=openmetrics)


@both_formats
def test_bucket_without_bound_equals_the_count(*, openmetrics: bool) -> None:
    """The last bucket equals the count, and buckets never decrease."""
    state = State()
    for value in (0, 0.1, 0.10001, 7, 1e9):
        state.move(LATENCY, ("n1", "m", "ok"), value)
    shown = samples(read(show(take_cut(state), openmetrics=openmetrics), openmetrics=openmetrics))
    name = PREFIX + "inference_latency_seconds"
    buckets = [sample.value for sample in shown if sample.name == name + "_bucket"]
    (count,) = [sample.value for sample in shown if sample.name == name + "_count"]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1], count) == (2, 5, 5)


@given(st.text(max_size=20), st.floats(min_value=0, allow_infinity=False))
def test_any_label_and_value_is_read_back(model_id: str, value: float) -> None:
    """Quotes, backslashes and any language survive, and numbers keep every digit."""
    state = State()
    state.move(QUEUE_DEPTH, ("n1", model_id), value)
    (labels,) = take_cut(state).numbers[QUEUE_DEPTH]
    for openmetrics in FORMATS:
        text = show(
            take_cut(state), openmetrics=openmetrics, names=(PREFIX + "inference_queue_depth",)
        )
        (sample,) = samples(read(text, openmetrics=openmetrics))
        assert sample.labels == dict(zip(QUEUE_DEPTH.labels, labels, strict=True))
        assert math.isclose(sample.value, value, rel_tol=0)


@both_formats
def test_empty_state_is_a_sound_answer(*, openmetrics: bool) -> None:
    """The exposition of an exporter without nodes is valid."""
    text = show(take_cut(State()), openmetrics=openmetrics)
    assert samples(read(text, openmetrics=openmetrics))
    assert PREFIX + "exporter_build_info" in text


@pytest.mark.parametrize(
    ("openmetrics", "content_type"),
    [
        (False, "text/plain; version=0.0.4; charset=utf-8"),
        (True, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_content_type_is_that_of_the_body(*, openmetrics: bool, content_type: str) -> None:
    """The content type matches the format, because Prometheus chooses its parser by it."""
    rendered = render(take_cut(State()), Wanted(openmetrics=openmetrics))
    assert rendered.content_type == content_type


@both_formats
def test_compressed_body_is_the_same(*, openmetrics: bool) -> None:
    """Gzip does not change the content."""
    cut = take_cut(lived_in())
    plain = render(cut, Wanted(openmetrics=openmetrics))
    compressed = render(cut, Wanted(openmetrics=openmetrics, compressed=True))
    assert gzip.decompress(compressed.body) == plain.body
    assert len(compressed.body) < len(plain.body) / 4
    assert compressed.content_type == plain.content_type


@both_formats
def test_names_restrict_the_answer(*, openmetrics: bool) -> None:
    """With `name[]` only the requested samples are shown."""
    names = tuple(PREFIX + name for name in ("node_up", "inference_requests_total", "node_info"))
    text = show(take_cut(lived_in()), openmetrics=openmetrics, names=names)
    shown = {sample.name for sample in samples(read(text, openmetrics=openmetrics))}
    assert shown == set(names)


@both_formats
def test_unknown_name_shows_nothing(*, openmetrics: bool) -> None:
    """An unknown name gives an empty answer."""
    text = show(take_cut(lived_in()), openmetrics=openmetrics, names=("up",))
    assert read(text, openmetrics=openmetrics) == []


@both_formats
def test_families_without_series_are_described(*, openmetrics: bool) -> None:
    """A family that has no series yet shows its help and its type, unless names are asked for."""
    cut = take_cut(State())
    shown = {
        each.name for each in read(show(cut, openmetrics=openmetrics), openmetrics=openmetrics)
    }
    assert shown == {PREFIX + family.name.removesuffix("_total") for family in FAMILIES}
    wanted = Wanted(openmetrics=openmetrics, names=(f"{PREFIX}peer_status",))
    assert b"peer_status" not in render(cut, wanted).body
