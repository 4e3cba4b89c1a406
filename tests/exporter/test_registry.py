"""The whole registry is exposed, and no collector in it can hurt the exporter's own metrics."""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from trio.testing import trio_test

from exporter.ingest.batches import Ingest
from exporter.journal.store import Store
from exporter.metrics.catalogue.exporter import COLLECTOR_ERRORS
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.web import collectors as module
from exporter.web.collectors import Collectors
from exporter.web.exposition import Wanted, render
from exporter.web.registry import CollectorNameError, Registry, StateCollector, open_registry
from tests.exporter.test_exposition import both_formats, lived_in

Collect = Callable[[], Iterable[Metric]]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give collectors more time than a busy machine needs."""
    monkeypatch.setattr(module, "COLLECT_SECONDS", 60)


def fan() -> list[Metric]:
    return [GaugeMetricFamily("fan_speed", "F.", 7)]


class Scripted(Collector):
    """A collector that does what a test wants; without arguments, it gives one gauge."""

    def __init__(
        self, collect: Collect = lambda: [GaugeMetricFamily("fan_speed", "F.", 7)]
    ) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def every_type() -> Iterator[Metric]:
    """Yield a family of each type, with a label that needs escapes."""
    yield InfoMetricFamily("gpu", "G.", {"driver": 'a"b\\c\nd'})
    yield GaugeMetricFamily("gpu_temperature_celsius", "T\\n.", 41.5)
    yield SummaryMetricFamily("gpu_wait_seconds", "W.", count_value=2, sum_value=3.5)
    counter = CounterMetricFamily("gpu_resets", "R.", labels=["gpu"], created=1.5)
    counter.add_metric(["0"], 3)
    yield counter
    yield HistogramMetricFamily("gpu_steps", "S.", buckets=[("1.0", 1), ("+Inf", 3)], sum_value=9)


def store_of(state: State) -> Store:
    return Store(Ingest(state, 2.5), Path("none"), None, "there is no disk in these tests")


async def errors(store: Store) -> dict[str, float]:
    """Return the errors by collector."""
    await store.tick(trio.current_time())
    return {name: count for (name,), count in store.state.values(COLLECTOR_ERRORS).items()}


@both_formats
@trio_test
async def test_exposition_is_what_the_library_writes_of_the_registry(*, openmetrics: bool) -> None:
    """The fast writer and the other collectors give the bytes of prometheus_client's own writer."""
    state = lived_in()
    registry = Registry(state)
    registry.register_as("gpu", Scripted(every_type))
    # The process's own numbers change between two reads.
    now = {name: list(other.collect()) for name, other in registry.others.items()}
    frozen: dict[str, Collector] = {
        name: Scripted(lambda families=families: families)  # type: ignore[misc]
        for name, families in now.items()
    }
    wanted = Wanted(openmetrics=openmetrics)
    others = await Collectors(frozen, store_of(state)).write(wanted)
    expected = CollectorRegistry()
    for collector in (StateCollector(state), *frozen.values()):
        expected.register(collector)
    write: Callable[[Any], bytes] = generate_openmetrics if openmetrics else generate_latest
    assert render(take_cut(state), wanted, others).body == write(expected)
    assert b"process_resident_memory_bytes " in others
    assert b"python_gc_collections_total{" in others
    assert b"python_info{" in others


def test_registry_knows_our_names() -> None:
    """A collector that describes one of our families is refused; anything of the library works."""
    registry = Registry(State())
    Gauge("room_temperature_celsius", "R.", registry=registry).set(21)
    assert b"room_temperature_celsius 21.0\n" in generate_latest(registry)
    assert b"distributed_llm_exporter_build_info{" in generate_latest(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Gauge("distributed_llm_node_up", "N.", registry=registry)


def raising() -> Iterator[Metric]:
    yield GaugeMetricFamily("half", "H.", 1)
    raise OSError("no such device")


def ended() -> list[Metric]:
    raise SystemExit(3)


def endless() -> Iterator[Metric]:
    while True:
        yield GaugeMetricFamily("endless", "E.", 1)


@pytest.mark.parametrize(
    ("collect", "reason"),
    [
        (raising, "no such device"),
        (ended, "SystemExit"),
        (endless, "more than 20000 samples"),
        (lambda: [GaugeMetricFamily("wordy", "W.", "many")], "ValueError"),  # type: ignore[arg-type]
        (lambda: None, "TypeError"),
        (lambda: [GaugeMetricFamily("distributed_llm_node_up", "N.", 0)], "node_up is taken"),
        (lambda: [GaugeMetricFamily("fan_speed", "F.", 1)], "fan_speed is taken"),
    ],
)
@trio_test
async def test_collector_that_fails_is_left_out(
    collect: Collect, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that raises or returns invalid samples is counted; the others are shown."""
    store = store_of(State())
    collectors = Collectors({"good": Scripted(), "bad": Scripted(collect)}, store)
    assert await errors(store) == {"good": 0, "bad": 0}
    text = await collectors.write(Wanted())
    assert text == generate_latest(Scripted())
    assert await errors(store) == {"good": 0, "bad": 1}
    assert "collector bad is left out of the scrape" in caplog.text
    assert reason in caplog.text


@trio_test
async def test_collector_that_hangs_delays_one_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hangs is left out after a while, and at once until it has returned."""
    monkeypatch.setattr(module, "COLLECT_SECONDS", 2)  # enough for the good one
    released = threading.Event()
    calls: list[str] = []

    def hang() -> list[Metric]:
        calls.append("called")
        released.wait(60)
        return [GaugeMetricFamily("slow", "S.", 1)]

    store = store_of(State())
    collectors = Collectors({"good": Scripted(), "slow": Scripted(hang)}, store)
    for count in (1, 2, 3):
        assert await collectors.write(Wanted()) == generate_latest(Scripted())
        assert (await errors(store))["slow"] == count
    assert calls == ["called"]
    monkeypatch.setattr(module, "COLLECT_SECONDS", 60)
    released.set()
    with trio.fail_after(60):
        while b"slow 1.0\n" not in await collectors.write(Wanted()):  # noqa: ASYNC110 - a thread
            await trio.sleep(0.01)


@trio_test
async def test_names_restrict_other_collectors_too() -> None:
    """`name[]` shows only the requested samples of any collector."""
    store = store_of(State())
    collectors = Collectors({"gpu": Scripted(every_type), "fan": Scripted()}, store)
    text = await collectors.write(Wanted(names=("fan_speed", "gpu_resets_total")))
    shown = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert shown == ['gpu_resets_total{gpu="0"} 3.0', "fan_speed 7.0"]


def test_collectors_are_loaded_by_name() -> None:
    """A class, a function that returns a collector, and a collector itself can be named."""
    names = [f"{__name__}:{name}" for name in ("Scripted", "make_collector", "COLLECTOR")]
    registry = open_registry(State(), names)
    assert list(registry.others)[-3:] == names
    assert b"fan_speed 7.0\n" in generate_latest(registry)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.to.be:Found", "No module named 'nowhere'"),
        ("exporter.errors:Missing", "no attribute 'Missing'"),
        ("exporter.errors:StartupError", r"no method collect"),
    ],
)
def test_collector_that_cannot_be_loaded_is_named(name: str, reason: str) -> None:
    """A name that gives no collector ends the start with its cause."""
    with pytest.raises(
        CollectorNameError, match=f"--collectors: {name} cannot be loaded: .*{reason}"
    ):
        open_registry(State(), [name])


def make_collector() -> Collector:
    return Scripted(list)


COLLECTOR = Scripted(list)
