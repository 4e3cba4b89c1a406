"""The memory that the loaded models and the lent workers leave for one more."""

from dataclasses import dataclass

from node import machine
from node.engine.protocol import Described
from node.pipeline.build import Programs
from node.pipeline.lender import Lender
from node.serving.catalogue import find_shortage
from node.serving.scheduler import Scheduler
from node.settings import NodeSettings


@dataclass(frozen=True)
class Memory:
    """Knows what memory is left for one more model or worker."""

    scheduler: Scheduler
    lender: Lender
    programs: Programs
    settings: NodeSettings

    def room_bytes(self) -> int:
        """Return the memory that the loaded models and the workers leave."""
        return room_bytes(self.scheduler, self.lender, self.settings.memory_limit_bytes)

    def find_room(self, described: Described) -> str:
        """Return why there is no room for a model; empty if there is."""
        may_use_gpu = self.settings.may_use_gpu and self.programs.may_use_gpu
        if may_use_gpu and described.engine == "llama.cpp":
            return ""  # llama-server itself fails if neither memory is enough
        return find_shortage(described, self.room_bytes())


def room_bytes(scheduler: Scheduler, lender: Lender, limit_bytes: int) -> int:
    """Return the memory that the loaded models and the workers leave."""
    # Their files are in the page cache, which the system counts as available although they are in
    # use.
    loaded = sum(lane.engine.model.weights_bytes for lane in scheduler.lanes)
    room = machine.available_memory_bytes() - loaded
    if limit_bytes:
        held = sum(lane.engine.model.held_bytes for lane in scheduler.lanes)
        room = min(room, limit_bytes - held - lender.held_bytes)
    return max(0, room)
