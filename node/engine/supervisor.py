"""Keeps one model's engine process alive, and passes requests to it and results back.

A crash, a hang or an out-of-memory kill of the process is handled here: the current requests are
interrupted, a new process is started, and the model's lane sends the requests again.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

import trio

from node.engine import protocol
from node.engine.failures import Failures
from node.engine.held_model import HeldModel
from node.engine.jobs import Job
from node.engine.loading import Loading, LostLoadError
from node.engine.options import EngineOptions, Watcher
from node.engine.results import take_results
from node.errors import HeldElsewhereError, RequestError, UnavailableError
from shared.events.engine import EngineRestarted, TokensSpeculated
from shared.events.models import ModelLoaded, ModelLoadFailed, ModelUnloaded, UnloadReason
from shared.groups import leaves

EngineState = Literal["unloaded", "loading", "ready", "failed"]

_BACKOFF_SECONDS: Final = (0.1, 30.0)

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
        self.model: Final = HeldModel(model_id, self._note_speculation)
        self.model_id: Final = model_id
        self.resident = False
        self.on_resize: Callable[[], None] = lambda: None
        """Called when it works on more or fewer requests at once; set by the lane."""
        self._options = options
        self._watcher = watcher
        self._emit = watcher.emit
        self._failures = Failures()
        self._wanted = False
        self._called = trio.Event()
        """Set when `want` or `unload` has changed something."""
        self._dismissed = trio.Event()
        """Set when this process must end, even if the model is wanted again at once."""
        self._unload_reason: UnloadReason = "requested"
        self._settled = trio.Event()
        """Set while the model is loaded, could not be loaded, or is not wanted."""
        self._gone = trio.Event()
        """Set while there is no process."""
        self._gone.set()

    @property
    def state(self) -> EngineState:
        """The model's state."""
        if self.ready:
            return "ready"
        if not self._wanted or self.defers:
            return "unloaded"
        return "failed" if self._failures.final else "loading"

    @property
    def ready(self) -> bool:
        """Whether a process has the model loaded now."""
        return self.model.ready

    @property
    def healthy(self) -> bool:
        """Whether its state is as required: a model that must be in memory is, or a peer has it."""
        return self.ready or self.defers or not self.resident

    @property
    def defers(self) -> bool:
        """Whether another node serves the model for this one, because it does not fit here."""
        return self._failures.defers

    @property
    def lacks_memory(self) -> bool:
        """Whether neither this node nor several together had memory for it at the last try."""
        return self._failures.lacks_memory

    @property
    def fault(self) -> str:
        """Why the model cannot be loaded, and since when; empty if it can, or is being loaded."""
        return self._failures.fault

    async def run(self) -> None:
        """Keep a process with the model while it is wanted. Runs until cancelled."""
        backoff = _BACKOFF_SECONDS[0]
        while True:
            while not self._wanted:
                await self._wait_called()
                backoff = _BACKOFF_SECONDS[0]
            self.model.worked = False
            failure = await self._live()
            if self.model.worked:
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
        self._failures.begin()
        self._settled = trio.Event()
        self._called.set()
        self._watcher.changed()

    def retry(self) -> None:
        """Try to load the model again at once, if it is wanted and there was no place for it."""
        if self.lacks_memory or self.defers:
            self._called.set()

    async def wait_ready(self) -> None:
        """Wait until a process has the model, which must be wanted.

        Raises:
            RequestError: The model cannot be loaded, is served elsewhere, or is no longer wanted.
        """
        while not self.ready:
            if self._failures.final:
                raise self._failures.final.fresh()
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
        link = self.model.link
        if link is None or not self.ready:
            job.interrupted("crashed")
            return
        self.model.jobs.add(job)
        await link.send(command)

    async def release(self, job: Job) -> None:
        """Stop the job unless it is done. Ends when its slot is free."""
        link, jobs = self.model.link, self.model.jobs
        if link is not None and job in jobs:
            await link.send(protocol.Cancel(job.identity))
            await jobs.wait_freed(job)

    async def _wait_called(self) -> None:
        await self._called.wait()
        self._called = trio.Event()

    def _fail(self, failure: RequestError) -> None:
        """Record a failed load; if it is final, fail those who wait for the model."""
        if isinstance(failure, HeldElsewhereError):
            self._defer(failure)
            return
        if self._failures.add(failure):
            _log.warning("model %s is not loaded, trying again: %s", self.model_id, failure)
            return
        # The caller of its first load gets the error; later loads happen in the background.
        is_news = self.model.described is not None and str(failure) != self._failures.text
        level = logging.ERROR if is_news else logging.DEBUG
        _log.log(level, "cannot load model %s: %s", self.model_id, failure)
        self._failures.final = failure
        if not self.resident:
            self._wanted = False
        self._settled.set()
        self._watcher.changed()

    def _defer(self, failure: HeldElsewhereError) -> None:
        """Leave the model to another node, and look again later whether that node still has it."""
        if str(failure) != self._failures.text:
            _log.info("model %s is not loaded here: %s", self.model_id, failure)
        self._failures.final = failure
        self._wanted = self.resident
        self._settled.set()
        self._watcher.changed()

    def _stop_deferring(self) -> None:
        if self.defers:
            self._failures.final = None
            self._settled = trio.Event()

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
            # Without the traceback, which holds a caller's frames.
            failure = leaves(group)[0].fresh()
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
            self.model.described = described = await loading.describe()
            self.model.place = place = loading.find_place(described)
            self._stop_deferring()
            async with self._options.open(described.engine, place) as link:
                self.model.link = link
                loaded = await loading.load(link, described, place)
                self._note_loaded(loaded, loading.seconds)
                await take_results(
                    self.model, link, self._options.stall_seconds, self._note_resized
                )
                reason = "stalled" if link.stalled else "crashed"
                _log.warning("%s; model %s", await link.wait_epitaph(), self.model_id)
                for line in link.last_lines:
                    _log.warning("engine %d said: %s", link.pid, line)
        finally:
            self._lose(reason or self._unload_reason)

    def _note_resized(self) -> None:
        self.on_resize()
        self._watcher.changed()

    def _note_speculation(self, drafted: int, accepted: int) -> None:
        self._emit(TokensSpeculated(self.model_id, drafted, accepted))

    def _note_loaded(self, loaded: protocol.Loaded, seconds: float) -> None:
        self.model.loaded = loaded
        self._failures.note_loaded()
        self._emit(ModelLoaded(self.model_id, seconds))
        if (level := self.model.describe()) is not None:
            self._emit(level)
        self._settled.set()
        self._watcher.changed()

    def _lose(self, reason: UnloadReason) -> None:
        """Record that the process is gone, or about to be."""
        was_loaded = self.ready
        self.model.lose()
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
        for job in self.model.jobs.clear():
            if reason in ("crashed", "stalled"):
                job.interrupted(reason)
            else:
                message = f"model {self.model_id} was unloaded"
                job.failed(UnavailableError(message, code="model_unloaded"))
        self._watcher.changed()
