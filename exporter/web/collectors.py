"""Read the collectors beside the state, so that none can delay or spoil a scrape."""

import logging
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import trio
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from exporter.journal.store import Store
from exporter.metrics.catalogue.exporter import COLLECTOR_ERRORS
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX
from exporter.web.exposition import EOF, Wanted
from shared.repeats import Repeats

COLLECT_SECONDS: Final = 1.0
"""Time for all of them together; a scrape has a timeout of 10 s by default."""
_SAMPLES: Final = 20_000
"""Limit for one collector: a scrape of them takes a fifth of a second."""
_OWN_NAMES: Final = frozenset(
    PREFIX + family.name.removesuffix("_total") + ending
    for family in FAMILIES
    for ending in ("", "_total", "_bucket", "_count", "_sum")
)

_log = logging.getLogger(__name__)


class _FaultError(Exception):
    """A collector's metrics cannot be shown; the text says why."""


class _Text(NamedTuple):
    """What a collector gave, as text."""

    names: frozenset[str]
    """Of its families and samples."""
    text: bytes


class Collectors:
    """The collectors beside the state.

    Each runs in a worker thread. One that raises, takes too long or uses a name that is taken is
    left out of the scrape, counted and logged.

    Args:
        others: The collectors by name.
        store: Counts their errors.
    """

    def __init__(self, others: Mapping[str, Collector], store: Store) -> None:
        self._sources = [_Source(name, collector) for name, collector in others.items()]
        self._store = store
        self._repeats = Repeats(_log, trio.current_time)
        for source in self._sources:
            store.note(COLLECTOR_ERRORS, (source.name,), 0)

    async def write(self, wanted: Wanted) -> bytes:
        """Return the text of all collectors, in order. Takes a bounded time and never raises."""
        texts: dict[str, _Text | _FaultError] = {}

        async def read(source: _Source) -> None:
            try:
                texts[source.name] = await source.read(wanted)
            except _FaultError as error:
                texts[source.name] = error

        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(read, source, name=f"collector {source.name}")
        return b"".join(self._choose(texts))

    def _choose(self, texts: Mapping[str, _Text | _FaultError]) -> Iterator[bytes]:
        taken = set(_OWN_NAMES)
        for source in self._sources:
            found = texts[source.name]
            if isinstance(found, _Text) and (clash := sorted(taken & found.names)):
                found = _FaultError(f"the name {clash[0]} is taken")
            if isinstance(found, _FaultError):
                self._note(source.name, found)
                continue
            taken |= found.names
            yield found.text

    def _note(self, name: str, error: _FaultError) -> None:
        self._store.note(COLLECTOR_ERRORS, (name,), 1)
        text = "collector %s is left out of the scrape: %s"
        self._repeats.note(text, name, error, kind=name, error=error.__cause__)


class _Source:
    """One collector; at most one of its calls runs at a time, however long it takes."""

    def __init__(self, name: str, collector: Collector) -> None:
        self.name = name
        self._collector = collector
        self._turns = trio.CapacityLimiter(1)
        self._was_late = False

    async def read(self, wanted: Wanted) -> _Text:
        """Return the collector's current metrics.

        Raises:
            _FaultError: It raised, or takes too long. Later calls do not wait for one that does.
        """
        if self._was_late and self._turns.borrowed_tokens:
            raise _FaultError("an earlier call has not returned")
        self._was_late = False
        with trio.move_on_after(COLLECT_SECONDS):
            return await trio.to_thread.run_sync(
                self._write, wanted, abandon_on_cancel=True, limiter=self._turns
            )
        self._was_late = True
        raise _FaultError(f"it takes more than {COLLECT_SECONDS:g} s")

    def _write(self, wanted: Wanted) -> _Text:
        try:
            families = list(self._collect(wanted))
            given = _Given(families)
            if wanted.openmetrics:
                text = generate_openmetrics(given).removesuffix(EOF)  # type: ignore[no-untyped-call]
            else:
                text = generate_latest(given)
        except _FaultError:
            raise
        except (Exception, SystemExit) as error:
            raise _FaultError(f"it raised {error!r}") from error
        samples = {sample.name for family in families for sample in family.samples}
        return _Text(frozenset(samples | {family.name for family in families}), text)

    def _collect(self, wanted: Wanted) -> Iterator[Metric]:
        count = 0
        for family in self._collector.collect():
            count += len(family.samples)
            if count > _SAMPLES:
                raise _FaultError(f"it has more than {_SAMPLES} samples")
            if not wanted.names:
                yield family
            elif shown := [sample for sample in family.samples if wanted.shows(sample.name)]:
                restricted = Metric(family.name, family.documentation, family.type)
                restricted.samples = shown
                yield restricted


class _Given(Collector):
    """Families that were already collected."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
