"""Keeps one model's engine child alive, and passes requests to it and results back.

A crash, a hang or an out-of-memory kill of the child is handled here: the current request is
interrupted, a new child is started, and the model's lane sends the request again.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import trio

from node.engine import protocol
from node.engine.process import ChildProcess, open_child
from node.errors import InsufficientMemoryError, RequestError, StartupError, UnavailableError
from node.requests.request import EndReason
from node.telemetry.progress import Progress
from shared import events
from shared.events import Event
from shared.runtime.silence import wait_silence

EngineState = Literal["unloaded", "loading", "ready", "failed"]

_BACKOFF_SECONDS: Final = (0.1, 30.0)
_LOADS: Final = 10
"""A model that was served before is given up after this many failed loads in a row, which takes
about 50 s. Until then its requests wait."""

_log = logging.getLogger(__name__)


class CannotLoadError(UnavailableError):
    """The model cannot be loaded as it is: a retry would fail in the same way."""


class Job(Protocol):
    """Callbacks of the engine for its current request."""

    @property
    def identity(self) -> int:
        """The request's name between node and child."""

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """`done` of `total` prompt tokens are evaluated."""

    def sampled(self, token: int, piece: bytes) -> None:
        """One token was drawn."""

    def embedded(self, vector: tuple[float, ...]) -> None:
        """The prompt's vector, if it was requested."""

    def finished(self, reason: EndReason, message: str) -> None:
        """The engine has finished the request."""

    def interrupted(self, reason: events.RestartReason) -> None:
        """The engine ended during the request."""

    def failed(self, error: RequestError) -> None:
        """There will be no engine for the request."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a child must hold its model; see `node.engine.protocol.Load`."""

    path: str
    context_length: int
    threads: int
    batch_tokens: int
    load_seconds: float
    """A child that takes longer to load counts as hanging."""
    stall_seconds: float
    """A child whose request makes no progress for this long counts as hanging."""
    locate: Callable[[], Awaitable[Path]] | None = None
    """Returns the path of a model, which may be downloaded first, or raises `StartupError`."""


@dataclass(frozen=True)
class Watcher:
    """Is notified of an engine's events, and decides whether it may use memory."""

    emit: Callable[[Event], None]
    find_room: Callable[[protocol.Described], str] = lambda _: ""
    """Returns why there is no memory for a model; empty if there is."""
    changed: Callable[[], None] = lambda: None
    """Called when the engine's state has changed."""


class Engine:
    """One model's engine. The model's lane passes it one job at a time.

    It has a child while the model is wanted: from `want` until `unload`, with a new child whenever
    one ends. A `resident` model is retried until it loads; any other is retried when it is next
    wanted.

    Args:
        model_id: The model's name in events.
        options: How to load it.
        watcher: Is notified of the engine's events.
    """

    def __init__(self, model_id: str, options: EngineOptions, watcher: Watcher) -> None:
        self.model_id: Final = model_id
        self.described: protocol.Described | None = None
        self.context_length = 0
        self.resident = False
        self.progressed_at = 0.0
        """Unix time of the last prompt chunk or token; 0 before the first."""
        self._options = options
        self._watcher = watcher
        self._emit = watcher.emit
        self._wanted = False
        self._called = trio.Event()
        """Set when `want` or `unload` has changed something."""
        self._dismissed = trio.Event()
        """Set when this child must end, even if the model is wanted again at once."""
        self._unload_reason: events.UnloadReason = "requested"
        self._child: ChildProcess | None = None
        self._has_room = False
        """Whether memory is reserved for the child's model: no other model can use it."""
        self._loaded = False
        self._was_loaded = False
        """Whether it was ever loaded."""
        self._failed_loads = 0
        """Failed loads in a row."""
        self._failure: RequestError | None = None
        """Why waiting for an engine is useless; a fresh copy is raised each time."""
        self._settled = trio.Event()
        """Set while the model is loaded, could not be loaded, or is not wanted."""
        self._gone = trio.Event()
        """Set while there is no child."""
        self._gone.set()
        self._worked = False
        """Whether this child has completed any work: then its end does not count as part of a crash
        loop."""
        self._job: Job | None = None
        self._freed = trio.Event()
        self._progress = 0.0

    @property
    def state(self) -> EngineState:
        """The model's state."""
        if self._loaded:
            return "ready"
        if not self._wanted:
            return "unloaded"
        return "failed" if self._failure else "loading"

    @property
    def ready(self) -> bool:
        """Whether a child has the model loaded now."""
        return self._loaded

    @property
    def healthy(self) -> bool:
        """Whether its state is as required: a model that must be in memory is."""
        return self._loaded or not self.resident

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child else None

    @property
    def weights_bytes(self) -> int:
        """The size of the weights that are in memory or being loaded; 0 for none."""
        return self.described.size_bytes if self.described and self._has_room else 0

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the file that the newest child has read; empty before the first."""
        return self.described.fingerprint if self.described else ""

    @property
    def silent_seconds(self) -> float:
        """Seconds that the current job has made no progress; 0 without a job."""
        return 0.0 if self._job is None else trio.current_time() - self._progress

    def describe(self) -> events.ModelDescribed | None:
        """Return the level that describes the loaded model; None while none is loaded."""
        described = self.described
        if described is None or not self._loaded:
            return None
        return events.ModelDescribed(
            self.model_id,
            described.architecture,
            described.quantization,
            described.engine,
            described.size_bytes,
            described.layers,
        )

    async def run(self) -> None:
        """Keep a child with the model while it is wanted. Runs until cancelled."""
        backoff = _BACKOFF_SECONDS[0]
        while True:
            while not self._wanted:
                await self._wait_called()
                backoff = _BACKOFF_SECONDS[0]
            self._worked = False
            failure = await self._live()
            if self._worked:
                backoff = _BACKOFF_SECONDS[0]
            if failure:
                self._fail(failure)
            if self._wanted:
                with trio.move_on_after(backoff):
                    await self._wait_called()
                backoff = min(2 * backoff, _BACKOFF_SECONDS[1])

    def want(self) -> None:
        """Load the model, if it is not loaded."""
        if self._wanted:  # a model that fails to load is retried on its own schedule
            return
        self._wanted = True
        self._failure = None
        self._failed_loads = 0
        self._settled = trio.Event()
        self._called.set()
        self._watcher.changed()

    async def wait_ready(self) -> None:
        """Wait until a child has the model, which must be wanted.

        Raises:
            UnavailableError: The model cannot be loaded, or is no longer wanted.
        """
        while not self._loaded:
            if self._failure:
                raise self._failure.fresh()
            if not self._wanted:
                raise UnavailableError(f"model {self.model_id} was unloaded", code="model_unloaded")
            await self._settled.wait()

    async def unload(self, reason: Literal["requested", "idle"]) -> None:
        """Unload the model. Ends when its child is gone; its current job is lost."""
        self.resident = False
        self._wanted = False
        self._unload_reason = reason
        self._dismissed.set()
        self._called.set()
        self._settled.set()
        await self._gone.wait()
        self._watcher.changed()

    async def begin(self, job: Job, command: protocol.Generate) -> None:
        """Pass a job to the child, which has no other job until `release` returns."""
        if self._child is None or not self._loaded:
            job.interrupted("crashed")
            return
        self._job = job
        self._freed = trio.Event()
        self._progress = trio.current_time()
        await self._child.send(command)

    async def release(self, job: Job) -> None:
        """Stop the job unless it is done. Ends when the engine is free."""
        if self._child is not None and self._job is job:
            await self._child.send(protocol.Cancel(job.identity))
            await self._freed.wait()

    async def _wait_called(self) -> None:
        await self._called.wait()
        self._called = trio.Event()

    def _fail(self, failure: RequestError) -> None:
        """Record a failed load; if it is final, fail those who wait for the model."""
        self._failed_loads += 1
        if self._can_recover(failure):
            _log.warning("model %s is not back yet: %s", self.model_id, failure)
            return
        # The caller of its first load gets the error; later loads happen in the background.
        level = logging.ERROR if self.described else logging.DEBUG
        _log.log(level, "cannot load model %s: %s", self.model_id, failure)
        self._failure = failure
        if not self.resident:
            self._wanted = False
        self._settled.set()
        self._watcher.changed()

    def _can_recover(self, failure: RequestError) -> bool:
        is_definite = isinstance(failure, CannotLoadError | InsufficientMemoryError)
        return self._was_loaded and not is_definite and self._failed_loads < _LOADS

    async def _live(self) -> RequestError | None:
        """Run one child from its start to its end; return why it could not load, if so."""
        self._gone = trio.Event()
        self._called = trio.Event()
        self._dismissed = trio.Event()
        try:
            return await self._live_child()
        except (
            OSError
        ) as error:  # no process, pipe or memory is available: as bad, and as temporary
            return UnavailableError(f"cannot start an engine child: {error}")
        finally:
            self._gone.set()

    async def _live_child(self) -> RequestError | None:
        async with open_child() as child, trio.open_nursery() as nursery:
            self._child = child
            nursery.start_soon(self._leave, nursery.cancel_scope, name=f"end of {self.model_id}")
            reason: events.UnloadReason | None = None
            try:
                if failure := await self._load(child):
                    return failure
                nursery.start_soon(self._watch, child, name=f"watchdog of {self.model_id}")
                while results := await child.receive():
                    self._take(results)
                reason = "stalled" if child.stalled else "crashed"
                _log.warning("%s; model %s", await child.wait_epitaph(), self.model_id)
                for line in child.last_lines:
                    _log.warning("engine child %d said: %s", child.pid, line)
            finally:
                self._lose(reason or self._unload_reason)
                nursery.cancel_scope.cancel()
        return None

    async def _leave(self, scope: trio.CancelScope) -> None:
        """End the child's block when the model is unloaded."""
        await self._dismissed.wait()
        scope.cancel()

    async def _load(self, child: ChildProcess) -> RequestError | None:
        began = trio.current_time()
        options = self._options
        try:
            path = await options.locate() if options.locate else options.path
        except StartupError as error:
            self._emit(events.ModelLoadFailed(self.model_id, trio.current_time() - began))
            return CannotLoadError(str(error))
        began = trio.current_time()
        await child.send(
            protocol.Load(
                os.fsencode(path), options.context_length, options.threads, options.batch_tokens
            )
        )
        failure: RequestError | None = UnavailableError(
            f"{options.path} was not loaded within {options.load_seconds:g} s"
        )
        progress = Progress(self.model_id, "read", self._emit)
        with trio.move_on_after(options.load_seconds), closing(progress):
            failure = await self._wait_loaded(child, progress)
        seconds = trio.current_time() - began
        if failure:
            self._emit(events.ModelLoadFailed(self.model_id, seconds))
            return failure
        self._loaded = self._was_loaded = True
        self._failed_loads = 0
        self._failure = None
        self._emit(events.ModelLoaded(self.model_id, seconds))
        if (level := self.describe()) is not None:
            self._emit(level)
        self._settled.set()
        self._watcher.changed()
        return None

    async def _wait_loaded(self, child: ChildProcess, progress: Progress) -> RequestError | None:
        while results := await child.receive():
            for result in results:
                match result:
                    case protocol.Described():
                        self.described = result
                        if fault := self._watcher.find_room(result):
                            return InsufficientMemoryError(fault)
                        self._has_room = True
                        await child.send(protocol.Proceed())
                    case protocol.Read(done, total):
                        progress.note(done, total)
                    case protocol.Loaded(context_length):
                        self.context_length = context_length
                        return None
                    case protocol.LoadFailed(message):
                        return CannotLoadError(message)
        epitaph = await child.wait_epitaph()
        return UnavailableError(
            f"{epitaph} while it loaded {self._options.path}: "
            "is there memory for it, and is the file complete?"
        )

    def _take(self, results: list[protocol.Result]) -> None:
        self._progress = trio.current_time()
        self.progressed_at = time.time()
        self._worked = True
        for result in results:
            job = self._job
            if job is None:
                continue
            match result:
                case protocol.Sampled(_, token, text):
                    job.sampled(token, text)
                case protocol.Evaluated(_, done, total, cached):
                    job.evaluated(done, total, cached)
                case protocol.Embedded(_, vector):
                    job.embedded(vector)
                case protocol.Finished(_, reason, message):
                    self._free()
                    job.finished(reason, message)

    async def _watch(self, child: ChildProcess) -> None:
        """Kill the child when it hangs. Runs until then or until cancelled."""
        limit = self._options.stall_seconds
        await wait_silence(lambda: self._progress if self._job else trio.current_time(), limit)
        _log.error("model %s made no progress for %s s: restarting", self.model_id, limit)
        child.kill(stalled=True)

    def _lose(self, reason: events.UnloadReason) -> None:
        """Record that the child is gone, or about to be."""
        was_loaded = self._loaded
        self._child = None
        self._has_room = False
        self._loaded = False
        self.context_length = 0
        if not was_loaded:
            if not self._wanted:  # its load was abandoned, which is not a failure
                self._emit(events.ModelUnloaded(self.model_id, reason))
            return
        self._settled.set()  # waiters check again
        self._settled = trio.Event()
        self._emit(events.ModelUnloaded(self.model_id, reason))
        job = self._job
        self._free()
        if reason in ("crashed", "stalled"):
            self._emit(events.EngineRestarted(self.model_id, reason))
            if job is not None:
                job.interrupted(reason)
        elif job is not None:
            job.failed(UnavailableError(f"model {self.model_id} was unloaded"))
        self._watcher.changed()

    def _free(self) -> None:
        self._job = None
        self._freed.set()
