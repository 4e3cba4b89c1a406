"""Keeps one model's engine child alive and passes requests to it and results back.

A crash, a hang or an out-of-memory kill of the child is an event here: the request that it had
ends with an error, a new child is started, the rest of the queue goes on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from node.engine import protocol
from node.engine.child_process import ChildProcess, open_child
from node.errors import EngineFailedError, RequestError, StartupError, UnavailableError
from shared import events
from shared.events import Event

_BACKOFF_SECONDS: Final = (0.1, 30.0)
_STEADY_SECONDS: Final = 60.0
"""A child that lived this long was no part of a crash loop."""

_log = logging.getLogger(__name__)


class Job(Protocol):
    """What the engine tells of the one request that it has."""

    @property
    def identity(self) -> int:
        """Name of the request between node and child."""

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """`done` of `total` prompt tokens are evaluated."""

    def sampled(self, piece: bytes) -> None:
        """One token was drawn."""

    def finished(self, reason: protocol.EndReason, message: str) -> None:
        """The engine is done with it."""

    def failed(self, error: RequestError) -> None:
        """The engine is gone."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a child is to hold its model; see `node.engine.protocol.Load`."""

    path: str
    context_length: int
    threads: int
    batch_tokens: int
    load_seconds: float
    """A child that takes longer to load counts as hung."""
    stall_seconds: float
    """With a request in work and no progress for so long, the child counts as hung."""


class Engine:
    """One model's engine. The model's lane gives it one job at a time.

    Args:
        model_id: The model's name in events.
        options: How to load it.
        emit: Takes the events of its life.
    """

    def __init__(
        self, model_id: str, options: EngineOptions, emit: Callable[[Event], None]
    ) -> None:
        self.model_id: Final = model_id
        self.described: protocol.Described | None = None
        self.context_length = 0
        self.progressed_at = 0.0
        """Unix time of the last prompt chunk or token; 0 before the first."""
        self._options = options
        self._emit = emit
        self._child: ChildProcess | None = None
        self._settled = trio.Event()
        self._failure = ""
        self._job: Job | None = None
        self._freed = trio.Event()
        self._progress = 0.0

    @property
    def ready(self) -> bool:
        """Whether a child has the model loaded now."""
        return self._child is not None and self._settled.is_set() and not self._failure

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child else None

    def describe(self) -> events.ModelDescribed | None:
        """Give the level that says what the loaded model is; None while none is loaded."""
        described = self.described
        if described is None or self._child is None or not self.context_length:
            return None
        return events.ModelDescribed(
            self.model_id,
            described.architecture,
            described.quantization,
            described.engine,
            described.size_bytes,
            described.layers,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a child with the model; started when it is loaded. Runs until cancelled.

        Raises:
            StartupError: The first child could not load the model.
        """
        if failure := await self._live(task_status.started):
            raise StartupError(failure)
        backoff = _BACKOFF_SECONDS[0]
        while True:
            await trio.sleep(backoff)
            born = trio.current_time()
            self._failure = await self._live(lambda: None)
            if self._failure:
                _log.error("model %s cannot be loaded again: %s", self.model_id, self._failure)
                self._settled.set()  # whoever waits is told
            steady = trio.current_time() - born > _STEADY_SECONDS
            backoff = _BACKOFF_SECONDS[0] if steady else min(2 * backoff, _BACKOFF_SECONDS[1])

    @property
    def silent_seconds(self) -> float:
        """How long the job in hand has been without progress; 0 while there is none."""
        return 0.0 if self._job is None else trio.current_time() - self._progress

    async def wait_ready(self) -> None:
        """Wait until a child has the model.

        Raises:
            UnavailableError: The model cannot be loaded any more.
        """
        await self._settled.wait()
        if self._failure:
            raise UnavailableError(f"model {self.model_id} cannot be loaded: {self._failure}")

    async def begin(self, job: Job, command: protocol.Generate) -> None:
        """Hand a job to the child, whose one job it then is until `release` returns."""
        if self._child is None:
            job.failed(EngineFailedError("the engine ended; send the request again"))
            return
        self._job = job
        self._freed = trio.Event()
        self._progress = trio.current_time()
        await self._child.send(command)

    async def release(self, job: Job) -> None:
        """Have the child stop the job unless it is done. Ends when the engine is free."""
        if self._child is not None and self._job is job:
            await self._child.send(protocol.Cancel(job.identity))
            await self._freed.wait()

    async def _live(self, started: Callable[[], None]) -> str:
        """Run one child from its start to its end; give why it could not load, else nothing."""
        try:
            return await self._live_child(started)
        except OSError as error:  # no process, pipe or memory to be had: as bad, and as passing
            return f"no engine child can be started: {error}"

    async def _live_child(self, started: Callable[[], None]) -> str:
        async with open_child() as child:
            self._child = child
            reason: events.UnloadReason = "requested"
            try:
                if failure := await self._load(child):
                    return failure
                started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, child, name=f"watchdog of {self.model_id}")
                    while results := await child.receive():
                        self._take(results)
                    nursery.cancel_scope.cancel()
                reason = "stalled" if child.stalled else "crashed"
                _log.warning("%s; model %s", await child.wait_epitaph(), self.model_id)
                for line in child.last_lines:
                    _log.warning("engine child %d said: %s", child.pid, line)
            finally:
                self._lose(reason)
        return ""

    async def _load(self, child: ChildProcess) -> str:
        began = trio.current_time()
        options = self._options
        await child.send(
            protocol.Load(
                options.path, options.context_length, options.threads, options.batch_tokens
            )
        )
        failure = f"{options.path} was not loaded within {options.load_seconds:g} s"
        with trio.move_on_after(options.load_seconds):
            failure = await self._wait_loaded(child)
        seconds = trio.current_time() - began
        if failure:
            self._emit(events.ModelLoadFailed(self.model_id, seconds))
            return failure
        self._emit(events.ModelLoaded(self.model_id, seconds))
        if (level := self.describe()) is not None:
            self._emit(level)
        self._failure = ""
        self._settled.set()
        return ""

    async def _wait_loaded(self, child: ChildProcess) -> str:
        while results := await child.receive():
            for result in results:
                match result:
                    case protocol.Described():
                        self.described = result
                    case protocol.Loaded(context_length):
                        self.context_length = context_length
                        return ""
                    case protocol.LoadFailed(message):
                        return message
        epitaph = await child.wait_epitaph()
        return (
            f"{epitaph} while it loaded {self._options.path}: "
            "is there memory for it, and is the file whole?"
        )

    def _take(self, results: list[protocol.Result]) -> None:
        self._progress = trio.current_time()
        self.progressed_at = time.time()
        for result in results:
            job = self._job
            if job is None:
                continue
            match result:
                case protocol.Sampled(_, text):
                    job.sampled(text)
                case protocol.Evaluated(_, done, total, cached):
                    job.evaluated(done, total, cached)
                case protocol.Finished(_, reason, message):
                    self._free()
                    job.finished(reason, message)

    async def _watch(self, child: ChildProcess) -> None:
        """Kill the child when it hangs. Runs until then or until cancelled."""
        limit = self._options.stall_seconds
        while True:
            await trio.sleep(min(1.0, limit / 4))
            if self.silent_seconds > limit:
                _log.error("model %s made no progress for %s s: restarting", self.model_id, limit)
                child.kill(stalled=True)
                return

    def _lose(self, reason: events.UnloadReason) -> None:
        was_loaded = self.ready
        self._child = None
        self.context_length = 0
        if not was_loaded:
            return
        self._settled = trio.Event()
        self._emit(events.ModelUnloaded(self.model_id, reason))
        if reason in ("crashed", "stalled"):
            self._emit(events.EngineRestarted(self.model_id, reason))
        job = self._job
        self._free()
        if job is not None:
            job.failed(EngineFailedError(f"the engine {reason}; send the request again"))

    def _free(self) -> None:
        self._job = None
        self._freed.set()
