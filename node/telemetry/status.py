"""The node's own state, and every level that an exporter may request."""

import platform
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from node import machine
from node.engine import NAMES
from node.engine.held_model import HeldModel
from node.serving.lane import Lane
from node.serving.scheduler import Scheduler
from node.telemetry.system import SystemSampler
from shared.events.engine import EngineProgressed
from shared.events.event import Event
from shared.events.node import NodeStarted, NodeState, NodeStateChanged, ResourcesSampled
from shared.runtime.beats import sleep_to_beat

_SAMPLE_SECONDS: Final = 1.0
_PAGE_URL: Final = re.compile(r"https?://[!-~]{1,200}")
"""What peers accept in an advert."""


class NodeStatus:
    """Watches the scheduler and samples the machine; the source of the node's levels.

    Args:
        version: The project's version.
        scheduler: The source of how busy the node is.
        emit: Receives events.
    """

    def __init__(self, version: str, scheduler: Scheduler, emit: Callable[[Event], None]) -> None:
        self.api_url = ""
        """The URL of the API, for the exporter's health check."""
        self.page_url = ""
        """The URL of the exporter's status page, for the mesh; empty while it is unknown."""
        self._version = version
        self._scheduler = scheduler
        self._emit = emit
        self._started_at = time.time()
        self._state: NodeState = "unknown"
        self._sampler = SystemSampler(self._engine_pids)
        self._sample = self._sampler.sample()

    @property
    def state(self) -> NodeState:
        """What the node is doing now: busy means that no engine has a free slot."""
        if self._scheduler.draining:
            return "draining"
        free = any(lane.has_free_slot for lane in self._scheduler.lanes)
        return "online" if free else "busy"

    @property
    def serving(self) -> bool:
        """Whether requests are accepted and every model that must be loaded is loaded."""
        lanes = self._scheduler.lanes
        return not self._scheduler.draining and all(lane.engine.healthy for lane in lanes)

    def note_page(self, url: str) -> None:
        """Take the URL of the status page as the exporter reports it."""
        self.page_url = url if _PAGE_URL.fullmatch(url) else ""

    def note_change(self) -> None:
        """Emit the state if it has changed."""
        state = self.state
        if state != self._state:
            self._state = state
            self._emit(NodeStateChanged(state))

    async def run(self) -> None:
        """Sample once a second. Runs until cancelled."""
        while True:
            self._sample = self._sampler.sample()
            self._emit(self._sample)
            self._emit(self._resources())
            self.note_change()
            for lane in self._present():
                self._emit(_progress(lane.engine.model))
                if (sample := lane.engine.model.sample()) is not None:
                    self._emit(sample)
            await sleep_to_beat(_SAMPLE_SECONDS)

    def identity(self) -> NodeStarted:
        """Return the node's identity and the address of its API."""
        python = platform.python_version()
        return NodeStarted(self._started_at, self._version, python, NAMES, self.api_url)

    def levels(self) -> Iterator[Event]:
        """Yield the current value of every level."""
        yield self.identity()
        yield NodeStateChanged(self.state)
        yield self._resources()
        yield self._sample
        for lane in self._present():
            yield lane.load()
            yield _progress(lane.engine.model)
            if (described := lane.engine.model.describe()) is not None:
                yield described

    def _present(self) -> list[Lane]:
        """Return the lanes of models that are in memory or being loaded."""
        return [lane for lane in self._scheduler.lanes if lane.engine.state != "unloaded"]

    def _resources(self) -> ResourcesSampled:
        memory = machine.usable_memory_bytes()
        engines = [lane.engine for lane in self._scheduler.lanes]
        described = (engine.model.described for engine in engines)
        known = [model for model in described if model and model.layers]
        loaded = [level for engine in engines if (level := engine.model.describe())]
        layer_bytes = known[0].size_bytes / known[0].layers if known else 0
        return ResourcesSampled(
            cpu_cores=machine.usable_cores(),
            memory_bytes=memory,
            max_layers=int(memory / layer_bytes) if layer_bytes else 0,
            used_layers=sum(
                level.layers if level.layers_here is None else level.layers_here for level in loaded
            ),
        )

    def _engine_pids(self) -> list[int]:
        return [pid for lane in self._scheduler.lanes if (pid := lane.engine.model.pid)]


def _progress(model: HeldModel) -> EngineProgressed:
    return EngineProgressed(model.model_id, model.progressed_at, model.silent_seconds)
