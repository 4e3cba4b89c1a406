"""A model as its engine holds it: what it is, where it is, and what the engine does with it."""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from node.engine import protocol
from node.engine.jobs import Jobs
from node.engine.link import Link
from node.engine.place import Place, Stage
from shared.events.engine import EngineSampled
from shared.events.models import ModelDescribed


class HeldModel:
    """What is known of one model; its engine's supervisor changes it.

    Args:
        model_id: The model's name in events.
        speculated: As for `Jobs`.
    """

    def __init__(self, model_id: str, speculated: Callable[[int, int], None]) -> None:
        self.model_id: Final = model_id
        self.described: protocol.Described | None = None
        """What the model's file said when it was last read; None before the first time."""
        self.place: Place | None = None
        """Where the model is; while it is set, no other model can use the memory."""
        self.link: Link | None = None
        """The engine's process; None while there is none."""
        self.loaded: protocol.Loaded | None = None
        """What the process has reported; None while the model is not loaded."""
        self.jobs: Final = Jobs(speculated)
        self.progressed_at = 0.0
        """Unix time of the last prompt chunk or token; 0 before the first."""
        self.worked = False
        """Whether this process has completed any work: then its end does not count as part of a
        crash loop."""

    @property
    def ready(self) -> bool:
        """Whether a process has the model loaded now."""
        return self.loaded is not None

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self.link.pid or None if self.link else None

    @property
    def slots(self) -> int:
        """Requests that it works on at once; while it is not loaded, as last known."""
        if self.loaded:
            return self.loaded.slots
        return self.described.slots if self.described else 1

    @property
    def context_length(self) -> int:
        """Positions of each slot; 0 while the model is not loaded."""
        return self.loaded.context_length if self.loaded else 0

    @property
    def weights_bytes(self) -> int:
        """The size of the weights that are in memory here or being loaded; 0 for none."""
        return self.place.weights_bytes if self.place else 0

    @property
    def held_bytes(self) -> int:
        """All the memory that the model takes here, an estimate; 0 for none."""
        return self.place.held_bytes if self.place else 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of a split model that is loaded or being loaded; empty for a whole one."""
        return self.place.stages if self.place else ()

    @property
    def is_elsewhere(self) -> bool:
        """Whether the model is in an engine that others run."""
        return self.described is not None and self.described.engine == "upstream"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the file that was last described; empty before the first."""
        return self.described.fingerprint if self.described else ""

    @property
    def silent_seconds(self) -> float:
        """Seconds that the most silent job has made no progress; 0 without a job."""
        since = self.jobs.silent_since
        return 0.0 if since is None else trio.current_time() - since

    def last_sign(self) -> float:
        """Return the Trio time of the most silent job's last progress; now without a job."""
        since = self.jobs.silent_since
        return trio.current_time() if since is None else since

    def describe(self) -> ModelDescribed | None:
        """Return the level that describes the loaded model; None while none is loaded."""
        described, loaded, place = self.described, self.loaded, self.place
        if described is None or loaded is None or place is None:
            return None
        return ModelDescribed(
            self.model_id,
            described.architecture,
            described.quantization,
            described.engine,
            described.size_bytes,
            described.layers,
            loaded.build,
            loaded.devices,
            place.layers if place.stages else None,
        )

    def sample(self) -> EngineSampled | None:
        """Return what the engine works on and holds; None while that is unknown."""
        if self.loaded is None or self.is_elsewhere:
            return None
        return EngineSampled(
            self.model_id,
            self.jobs.decoding,
            self.jobs.tokens,
            self.link.held_tokens if self.link else None,
            context_capacity=self.context_length * self.slots,
        )

    def resize(self, slots: int) -> None:
        """Record how many requests a loaded engine now works on at once."""
        if self.loaded is not None:
            self.loaded = msgspec.structs.replace(self.loaded, slots=slots)

    def lose(self) -> None:
        """Record that the process is gone; the jobs remain until they are cleared."""
        self.link = self.place = self.loaded = None
