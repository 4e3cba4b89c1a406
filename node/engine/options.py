"""How an engine loads its model, and what it notifies of its events."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from node.engine.link import Link, OpenLink, OpenPipeline
from node.engine.place import Place
from node.engine.protocol import Described, EngineName
from node.errors import InsufficientMemoryError
from shared.events.event import Event


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to find, check and load one model."""

    place: str
    """The model's location, for people."""
    locate: Callable[[], Awaitable[Path]]
    """Returns the path of the model's file, which may be downloaded first, or raises
    `StartupError`."""
    describe: Callable[[Path], Awaitable[Described]]
    """Reads the file's header and chooses the engine, or raises `UnusableModelError`."""
    open_link: OpenLink
    open_pipeline: OpenPipeline | None = None
    """For places with stages; None where no model is split."""
    threads: int
    batch_tokens: Mapping[EngineName, int]
    """Prompt tokens per evaluation of each engine."""
    load_seconds: float
    """An engine that takes longer to load counts as hanging."""
    stall_seconds: float
    """An engine with a request that makes no progress for this long counts as hanging."""

    def open(self, engine: EngineName, place: Place) -> AbstractAsyncContextManager[Link]:
        """Start an engine, or a split one, that has no model yet."""
        if place.stages and self.open_pipeline is not None:
            return self.open_pipeline(place)
        return self.open_link(engine)


def _refuse(described: Described, model_id: str, shortage: str) -> Place:
    del described, model_id
    raise InsufficientMemoryError(shortage)


@dataclass(frozen=True)
class Watcher:
    """Is notified of an engine's events, and decides where its model goes."""

    emit: Callable[[Event], None]
    find_room: Callable[[Described], str] = lambda _: ""
    """Returns why there is no memory for a model on this node; empty if there is."""
    changed: Callable[[], None] = lambda: None
    """Called when the engine's state has changed."""
    split: Callable[[Described, str, str], Place] = _refuse
    """Takes a model that does not fit on this node, its name and why it does not fit. Returns its
    stages over several nodes, or raises `InsufficientMemoryError` or `HeldElsewhereError`."""
