"""Keeps one model's engine process alive, and passes requests to it and results back.

A crash, a hang or an out-of-memory kill of the process is handled here: the current requests are
interrupted, a new process is started, and the model's lane sends the requests again.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
import trio

from node.engine import protocol
from node.engine.jobs import Job, Jobs
from node.engine.link import Link
from node.engine.loading import CannotLoadError, Loading, LostLoadError
from node.engine.options import EngineOptions, Watcher
from node.engine.place import Place, Stage
from node.errors import (
    HeldElsewhereError,
    InsufficientMemoryError,
    RequestError,
    UnavailableError,
)
from shared.events.engine import EngineRestarted, EngineSampled, TokensSpeculated
from shared.events.models import (
    ModelDescribed,
    ModelLoaded,
    ModelLoadFailed,
    ModelUnloaded,
    UnloadReason,
)
from shared.groups import leaves
from shared.runtime.silence import wait_silence

EngineState = Literal["unloaded", "loading", "ready", "failed"]

_BACKOFF_SECONDS: Final = (0.1, 30.0)
_LOADS: Final = 10
"""A model that was served before is given up after this many failed loads in a row, which takes
about 50 s. Until then its requests wait."""
_FIRST_LOADS: Final = 4
"""The same for a model that was never served, if its engine ended in each of them. Some may have
been killed by accident, but a model that brings its engine down must fail the start soon."""

_log = logging.getLogger(__name__)


class Engine:
    """One model's engine. The model's lane passes it as many jobs at a time as it has slots.

    It has a process while the model is wanted: from `want` until `unload`, with a new one whenever
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
        """What the model's file said when it was last read; None before the first time."""
        self.resident = False
        self.progressed_at = 0.0
        """Unix time of the last prompt chunk or token; 0 before the first."""
        self.on_resize: Callable[[], None] = lambda: None
        """Called when it works on more or fewer requests at once; set by the lane."""
        self._options = options
        self._watcher = watcher
        self._emit = watcher.emit
        self._wanted = False
        self._called = trio.Event()
        """Set when `want` or `unload` has changed something."""
        self._dismissed = trio.Event()
        """Set when this process must end, even if the model is wanted again at once."""
        self._unload_reason: UnloadReason = "requested"
        self._link: Link | None = None
        self._place: Place | None = None
        """Where the model is; while it is set, no other model can use the memory."""
        self._was_loaded = False
        """Whether it was ever loaded."""
        self._failed_loads = 0
        """Failed loads in a row."""
        self._failure: RequestError | None = None
        """Why waiting for an engine is useless; a fresh copy is raised each time."""
        self._fault = ""
        """Why the last load failed; empty if it did not."""
        self._failed_at = 0.0
        """Unix time since when loads have failed."""
        self._settled = trio.Event()
        """Set while the model is loaded, could not be loaded, or is not wanted."""
        self._gone = trio.Event()
        """Set while there is no process."""
        self._gone.set()
        self._worked = False
        """Whether this process has completed any work: then its end does not count as part of a
        crash loop."""
        self._loaded_as: protocol.Loaded | None = None
        """What the process has reported; None while the model is not loaded."""
        self._jobs = Jobs(self._note_speculation)

    @property
    def state(self) -> EngineState:
        """The model's state."""
        if self.ready:
            return "ready"
        if not self._wanted or self.defers:
            return "unloaded"
        return "failed" if self._failure else "loading"

    @property
    def ready(self) -> bool:
        """Whether a process has the model loaded now."""
        return self._loaded_as is not None

    @property
    def healthy(self) -> bool:
        """Whether its state is as required: a model that must be in memory is, or a peer has it."""
        return self.ready or self.defers or not self.resident

    @property
    def defers(self) -> bool:
        """Whether another node serves the model for this one, because it does not fit here."""
        return isinstance(self._failure, HeldElsewhereError)

    @property
    def lacks_memory(self) -> bool:
        """Whether neither this node nor several together had memory for it at the last try."""
        return isinstance(self._failure, InsufficientMemoryError)

    @property
    def failure(self) -> str:
        """Why the model cannot be loaded now; empty if nothing is known to prevent it."""
        return str(self._failure or "")

    @property
    def fault(self) -> str:
        """Why the model cannot be loaded, and since when; empty if it can, or is being loaded."""
        if not self._fault:
            return ""
        since = datetime.fromtimestamp(self._failed_at, UTC).isoformat(timespec="seconds")
        return f"{self._fault} (since {since})"

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self._link.pid or None if self._link else None

    @property
    def slots(self) -> int:
        """Requests that it works on at once; while it is not loaded, as last known."""
        if self._loaded_as:
            return self._loaded_as.slots
        return self.described.slots if self.described else 1

    @property
    def context_length(self) -> int:
        """Positions of each slot; 0 while the model is not loaded."""
        return self._loaded_as.context_length if self._loaded_as else 0

    @property
    def weights_bytes(self) -> int:
        """The size of the weights that are in memory here or being loaded; 0 for none."""
        return self._place.weights_bytes if self._place else 0

    @property
    def held_bytes(self) -> int:
        """All the memory that the model takes here, an estimate; 0 for none."""
        return self._place.held_bytes if self._place else 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of a split model that is loaded or being loaded; empty for a whole one."""
        return self._place.stages if self._place else ()

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
        since = self._jobs.silent_since
        return 0.0 if since is None else trio.current_time() - since

    def describe(self) -> ModelDescribed | None:
        """Return the level that describes the loaded model; None while none is loaded."""
        described, loaded, place = self.described, self._loaded_as, self._place
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
        if self._loaded_as is None or self.is_elsewhere:
            return None
        return EngineSampled(
            self.model_id,
            self._jobs.decoding,
            self._jobs.tokens,
            self._link.held_tokens if self._link else None,
            context_capacity=self.context_length * self.slots,
        )

    async def run(self) -> None:
        """Keep a process with the model while it is wanted. Runs until cancelled."""
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

    def retry(self) -> None:
        """Try to load the model again at once, if it is wanted and there was no place for it."""
        if isinstance(self._failure, InsufficientMemoryError | HeldElsewhereError):
            self._called.set()

    async def wait_ready(self) -> None:
        """Wait until a process has the model, which must be wanted.

        Raises:
            RequestError: The model cannot be loaded, is served elsewhere, or is no longer wanted.
        """
        while not self.ready:
            if self._failure:
                raise self._failure.fresh()
            if not self._wanted:
                raise UnavailableError(f"model {self.model_id} was unloaded", code="model_unloaded")
            await self._settled.wait()

    async def unload(self, reason: Literal["requested", "idle"]) -> None:
        """Unload the model. Ends when its process is gone; its current jobs are lost."""
        self.resident = False
        self._wanted = False
        self._unload_reason = reason
        self._dismissed.set()
        self._called.set()
        self._settled.set()
        await self._gone.wait()
        self._watcher.changed()

    async def begin(self, job: Job, command: protocol.Generate | protocol.Tokenize) -> None:
        """Pass a job to a free slot, which it has until `release` returns."""
        if self._link is None or not self.ready:
            job.interrupted("crashed")
            return
        self._jobs.add(job)
        await self._link.send(command)

    async def release(self, job: Job) -> None:
        """Stop the job unless it is done. Ends when its slot is free."""
        if self._link is not None and job in self._jobs:
            await self._link.send(protocol.Cancel(job.identity))
            await self._jobs.wait_freed(job)

    async def _wait_called(self) -> None:
        await self._called.wait()
        self._called = trio.Event()

    def _fail(self, failure: RequestError) -> None:
        """Record a failed load; if it is final, fail those who wait for the model."""
        if isinstance(failure, HeldElsewhereError):
            self._defer(failure)
            return
        self._failed_loads += 1
        self._failed_at = self._failed_at if self._fault else time.time()
        self._fault = str(failure)
        if self._can_recover(failure):
            _log.warning("model %s is not loaded, trying again: %s", self.model_id, failure)
            return
        # The caller of its first load gets the error; later loads happen in the background.
        is_news = self.described is not None and str(failure) != self.failure
        level = logging.ERROR if is_news else logging.DEBUG
        _log.log(level, "cannot load model %s: %s", self.model_id, failure)
        self._failure = failure
        if not self.resident:
            self._wanted = False
        self._settled.set()
        self._watcher.changed()

    def _defer(self, failure: HeldElsewhereError) -> None:
        """Leave the model to another node, and look again later whether that node still has it."""
        if str(failure) != self.failure:
            _log.info("model %s is not loaded here: %s", self.model_id, failure)
        self._failure = failure
        self._wanted = self.resident
        self._settled.set()
        self._watcher.changed()

    def _stop_deferring(self) -> None:
        if self.defers:
            self._failure = None
            self._settled = trio.Event()

    def _can_recover(self, failure: RequestError) -> bool:
        if isinstance(failure, CannotLoadError | InsufficientMemoryError):
            return False
        if self._was_loaded:
            return self._failed_loads < _LOADS
        return isinstance(failure, LostLoadError) and self._failed_loads < _FIRST_LOADS

    async def _live(self) -> RequestError | None:
        """Run one process from its start to its end; return why it could not load, if so."""
        self._gone, self._called, self._dismissed = trio.Event(), trio.Event(), trio.Event()
        loading = Loading(self.model_id, self._options, self._watcher)
        failure: RequestError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._leave, nursery.cancel_scope, name=f"end of {self.model_id}"
                )
                await self._load_and_serve(loading)
                nursery.cancel_scope.cancel()
        except* RequestError as group:
            failure = leaves(group)[
                0
            ].fresh()  # without the traceback, which holds a caller's frames
        except* OSError as group:  # no process, pipe or memory is available: as bad, as temporary
            failure = LostLoadError(f"cannot start an engine: {leaves(group)[0]}")
        finally:
            self._gone.set()
        if failure and not isinstance(failure, HeldElsewhereError):
            self._emit(ModelLoadFailed(self.model_id, loading.seconds))
        return failure

    async def _leave(self, scope: trio.CancelScope) -> None:
        """End the process's block when the model is unloaded."""
        await self._dismissed.wait()
        scope.cancel()

    async def _load_and_serve(self, loading: Loading) -> None:
        """Load the model and take the engine's results. Ends when the engine is gone.

        Raises:
            RequestError: It could not be loaded.
            OSError: No process can be started.
        """
        reason: UnloadReason | None = None
        try:
            self.described = described = await loading.describe()
            self._place = place = loading.find_place(described)
            self._stop_deferring()
            async with self._open(described, place) as link:
                self._link = link
                loaded = await loading.load(link, described, place)
                self._note_loaded(loaded, loading.seconds)
                await self._serve(link)
                reason = "stalled" if link.stalled else "crashed"
                _log.warning("%s; model %s", await link.wait_epitaph(), self.model_id)
                for line in link.last_lines:
                    _log.warning("engine %d said: %s", link.pid, line)
        finally:
            self._lose(reason or self._unload_reason)

    def _open(
        self, described: protocol.Described, place: Place
    ) -> AbstractAsyncContextManager[Link]:
        if place.stages and self._options.open_pipeline is not None:
            return self._options.open_pipeline(place)
        return self._options.open_link(described.engine)

    async def _serve(self, link: Link) -> None:
        """Pass the engine's results to their jobs. Ends when the engine is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, link, name=f"watchdog of {self.model_id}")
            while results := await link.receive():
                self._take(results)
            nursery.cancel_scope.cancel()

    def _take(self, results: list[protocol.Result]) -> None:
        sizes = [result for result in results if isinstance(result, protocol.Resized)]
        if not all(isinstance(result, protocol.NO_PROGRESS) for result in results):
            self.progressed_at = time.time()
            self._worked = True
        self._jobs.take(results)
        if sizes and self._loaded_as is not None:
            self._loaded_as = msgspec.structs.replace(self._loaded_as, slots=sizes[-1].slots)
            self.on_resize()
            self._watcher.changed()

    async def _watch(self, link: Link) -> None:
        """Kill an engine that hangs. Runs until then or until cancelled."""
        limit = self._options.stall_seconds
        await wait_silence(self._last_sign, limit)
        _log.error("model %s made no progress for %s s: restarting", self.model_id, limit)
        link.kill(stalled=True)

    def _note_speculation(self, drafted: int, accepted: int) -> None:
        self._emit(TokensSpeculated(self.model_id, drafted, accepted))

    def _last_sign(self) -> float:
        since = self._jobs.silent_since
        return trio.current_time() if since is None else since

    def _note_loaded(self, loaded: protocol.Loaded, seconds: float) -> None:
        self._loaded_as = loaded
        self._was_loaded = True
        self._failed_loads = 0
        self._failure = None
        self._fault = ""
        self._emit(ModelLoaded(self.model_id, seconds))
        if (level := self.describe()) is not None:
            self._emit(level)
        self._settled.set()
        self._watcher.changed()

    def _lose(self, reason: UnloadReason) -> None:
        """Record that the process is gone, or about to be."""
        was_loaded = self.ready
        self._link = None
        self._place = None
        self._loaded_as = None
        self.on_resize()
        if not was_loaded:
            if not self._wanted:  # its load was abandoned, which is not a failure
                self._emit(ModelUnloaded(self.model_id, reason))
            return
        self._settled.set()  # waiters check again
        self._settled = trio.Event()
        self._emit(ModelUnloaded(self.model_id, reason))
        if reason in ("crashed", "stalled"):
            self._emit(EngineRestarted(self.model_id, reason))
        for job in self._jobs.clear():
            if reason in ("crashed", "stalled"):
                job.interrupted(reason)
            else:
                message = f"model {self.model_id} was unloaded"
                job.failed(UnavailableError(message, code="model_unloaded"))
        self._watcher.changed()
