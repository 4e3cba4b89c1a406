"""Builds this node's own offer."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import trio

from node import machine
from node.engine import NAMES
from node.routing.offer import (
    LARGEST_AMOUNT,
    LARGEST_COUNT,
    MODELS,
    STAGES,
    Offer,
    OfferedModel,
    OfferedStage,
    check_model,
    pack_offer,
)
from node.routing.speed import SpeedMeter
from node.serving.lane import Lane
from node.serving.scheduler import Scheduler
from node.telemetry.status import NodeStatus
from shared.events.node import NodeState
from shared.repeats import Repeats

_MACHINE_SECONDS: Final = 5.0
"""How often the machine's limits are read again; a cgroup's limits may change."""

_log = logging.getLogger(__name__)


class OwnOffer:
    """Builds the node's status and packed offer for its adverts.

    Args:
        status: Knows the node's state and the address of its API.
        scheduler: Knows the models and the waiting requests.
        speed: Knows how fast the machine decodes.
        rpc_build: Returns the build of the workers that the node lends; empty for none.
        limit_bytes: The memory that models and workers may take; 0 for what the machine grants.
    """

    def __init__(
        self,
        status: NodeStatus,
        scheduler: Scheduler,
        speed: SpeedMeter,
        rpc_build: Callable[[], str] = str,
        limit_bytes: int = 0,
    ) -> None:
        self._status = status
        self._scheduler = scheduler
        self._speed = speed
        self._rpc_build = rpc_build
        self._limit_bytes = limit_bytes
        self._cores = 0.0
        self._memory_bytes = 0
        self._machine_due = 0.0
        self._repeats = Repeats(_log)

    def __call__(self) -> tuple[NodeState, bytes]:
        """Return the current status and packed offer."""
        return self._status.state, pack_offer(self.current())

    def current(self) -> Offer:
        """Return the current offer."""
        self._look_at_machine()
        return Offer(
            api_url=self._status.api_url,
            engine=NAMES,
            cpu_cores=self._cores,
            memory_bytes=_count(self._memory_bytes),
            max_layers=self._max_layers(),
            bytes_per_second=_amount(self._speed.bytes_per_second),
            models=tuple(self._models())[:MODELS],
            page_url=self._status.page_url,
            rpc_build=self._rpc_build(),
            stages=tuple(self._stages())[:STAGES],
        )

    def _look_at_machine(self) -> None:
        if trio.current_time() < self._machine_due:
            return
        self._machine_due = trio.current_time() + _MACHINE_SECONDS
        try:
            self._cores = _amount(machine.usable_cores())
            self._memory_bytes = machine.limited_memory_bytes(self._limit_bytes)
        except OSError as error:  # /proc cannot be read without a free descriptor
            self._repeats.note("cannot read the machine's limits: %s", error, kind="machine")

    def _max_layers(self) -> int:
        for lane in self._scheduler.lanes:
            if (described := lane.engine.model.described) and described.size_bytes:
                return _count(self._memory_bytes * described.layers // described.size_bytes)
        return 0

    def _models(self) -> Iterator[OfferedModel]:
        for lane in self._scheduler.lanes:
            model = _offered(lane)
            try:
                check_model(model)
            except ValueError as error:
                self._repeats.note("not offered to the mesh: %s", error, kind=model.model_id)
            else:
                yield model

    def _stages(self) -> Iterator[OfferedStage]:
        for lane in self._scheduler.lanes:
            for stage in lane.engine.model.stages:
                yield OfferedStage(
                    lane.engine.model_id,
                    stage.node_id,
                    _count(stage.first),
                    _count(stage.layers),
                    _count(stage.memory_bytes),
                    "up" if lane.engine.ready else "loading",
                )


def _offered(lane: Lane) -> OfferedModel:
    load, described = lane.load(), lane.engine.model.described
    return OfferedModel(
        model_id=lane.engine.model_id,
        state=lane.engine.state,
        layers=_count(described.layers) if described else 0,
        size_bytes=_count(described.size_bytes) if described else 0,
        position_bytes=_count(described.position_bytes * described.slots) if described else 0,
        context_length=_count(lane.engine.model.context_length),
        queued=load.queued,
        in_flight=load.in_flight,
        slots_busy=load.slots_busy,
        slots_total=load.slots_total,
        fingerprint=lane.engine.model.fingerprint,
        held_bytes=_count(lane.engine.model.held_bytes),
        elsewhere=lane.engine.defers,
    )


def _count(number: int) -> int:
    """Limit a value from a model's file or the machine to what peers accept."""
    return min(max(0, number), LARGEST_COUNT)


def _amount(number: float) -> float:
    return min(max(0.0, number), LARGEST_AMOUNT)  # NaN compares as false, so it becomes 0
