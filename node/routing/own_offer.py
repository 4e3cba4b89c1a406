"""Writes the node's own advert from what the node knows of itself."""

from collections.abc import Iterator
from typing import Final

import trio

from node import machine
from node.engine import NAME
from node.mesh.messages import MODELS, Advert, ModelAdvert
from node.routing.speed import SpeedMeter
from node.serving.scheduler import Scheduler
from node.telemetry.status import NodeStatus

_MACHINE_SECONDS: Final = 5.0
"""Limits of the machine are read anew so often; a cgroup's may change."""


class LocalAdvert:
    """Gives the advert as it is now.

    Args:
        software: The project's version.
        status: Says how the node is and where its API answers.
        scheduler: Knows the models and who waits for them.
        speed: Knows how fast the machine decodes.
    """

    def __init__(
        self, software: str, status: NodeStatus, scheduler: Scheduler, speed: SpeedMeter
    ) -> None:
        self._software = software
        self._status = status
        self._scheduler = scheduler
        self._speed = speed
        self._cores = 0.0
        self._memory_bytes = 0
        self._machine_due = 0.0

    def __call__(self) -> Advert:
        """Write it; addresses and lag are the mesh's to fill in."""
        self._look_at_machine()
        return Advert(
            addresses=(),
            api_url=self._status.api_url,
            software=self._software,
            engine=NAME,
            status=self._status.state,
            cpu_cores=self._cores,
            memory_bytes=self._memory_bytes,
            max_layers=self._max_layers(),
            bytes_per_second=self._speed.bytes_per_second,
            lag_seconds=0.0,
            models=tuple(self._models())[:MODELS],
        )

    def _look_at_machine(self) -> None:
        if trio.current_time() >= self._machine_due:
            self._machine_due = trio.current_time() + _MACHINE_SECONDS
            self._cores = machine.usable_cores()
            self._memory_bytes = machine.usable_memory_bytes()

    def _max_layers(self) -> int:
        for lane in self._scheduler.lanes:
            if (described := lane.engine.described) and described.size_bytes:
                return self._memory_bytes * described.layers // described.size_bytes
        return 0

    def _models(self) -> Iterator[ModelAdvert]:
        for lane in self._scheduler.lanes:
            load, described = lane.load(), lane.engine.described
            yield ModelAdvert(
                model_id=lane.engine.model_id,
                state=lane.engine.state,
                layers=described.layers if described else 0,
                size_bytes=described.size_bytes if described else 0,
                position_bytes=described.position_bytes if described else 0,
                context_length=lane.engine.context_length,
                queued=load.queued,
                in_flight=load.in_flight,
                slots_busy=load.slots_busy,
                slots_total=load.slots_total,
                fingerprint=lane.engine.fingerprint,
            )
