"""How an engine loads its model, and what it notifies of its events."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.engine.link import OpenLink
from node.engine.protocol import Described, EngineName
from shared.events import Event


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
    threads: int
    batch_tokens: Mapping[EngineName, int]
    """Prompt tokens per evaluation of each engine."""
    load_seconds: float
    """An engine that takes longer to load counts as hanging."""
    stall_seconds: float
    """An engine with a request that makes no progress for this long counts as hanging."""


@dataclass(frozen=True)
class Watcher:
    """Is notified of an engine's events, and decides whether it may use memory."""

    emit: Callable[[Event], None]
    find_room: Callable[[Described], str] = lambda _: ""
    """Returns why there is no memory for a model; empty if there is."""
    changed: Callable[[], None] = lambda: None
    """Called when the engine's state has changed."""
