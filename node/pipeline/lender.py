"""Lends this node's workers to pipelines of other nodes: one worker per claim, while it lasts."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from node.pipeline.build import Programs
from node.pipeline.cache import make_room
from node.pipeline.messages import (
    SWITCHED,
    Beat,
    Control,
    Lost,
    PeerGoneError,
    Ready,
    Refused,
)
from node.pipeline.relay import open_end, relay
from node.pipeline.tunnel import Claim, TunnelRefusedError
from node.pipeline.worker import Worker, WorkerFailedError, WorkerOptions, open_worker
from shared.events.event import Event
from shared.events.pipelines import WorkerEnd, WorkerEnded, WorkerRefused, WorkersLent

_GIBIBYTE: Final = 2**30

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LenderOptions:
    """How much a node lends, and how."""

    threads: int
    places: int
    """Workers at once."""
    cache: Path
    """Directory of the workers' tensors."""
    cache_bytes: int
    """Limit of its size."""
    cpu_only: bool
    """Whether GPUs are left alone."""


@dataclass(eq=False)
class _Lease:
    """A claim that was granted."""

    claim: Claim
    worker: Worker | None = None
    """None until it listens."""
    clients: set[trio.CancelScope] = field(default_factory=set)

    @property
    def held_bytes(self) -> int:
        """Memory that its worker takes now."""
        return self.worker.held_bytes() if self.worker is not None else 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Run the block until the lease ends."""
        with trio.CancelScope() as scope:
            self.clients.add(scope)
            try:
                yield
            finally:
                self.clients.discard(scope)


class Lender:
    """Grants claims and keeps their workers.

    Args:
        programs: Run the workers.
        options: How much to lend.
        room_bytes: Returns the memory that the node's own models leave.
        emit: Receives events.
    """

    def __init__(
        self,
        programs: Programs,
        options: LenderOptions,
        room_bytes: Callable[[], int],
        emit: Callable[[Event], None],
    ) -> None:
        self._programs = programs
        self._options = options
        self._room_bytes = room_bytes
        self._emit = emit
        self._leases: dict[str, _Lease] = {}
        self._draining = trio.Event()

    @property
    def build(self) -> str:
        """The build of the workers, for the node's offer; empty if it lends none."""
        build = self._programs.build
        return build.name if build is not None and not self._draining.is_set() else ""

    @property
    def held_bytes(self) -> int:
        """Memory that the workers take now."""
        return sum(lease.held_bytes for lease in self._leases.values())

    def levels(self) -> Iterator[Event]:
        """Yield how much is lent, if the node can lend."""
        if self._programs.build is not None:
            yield WorkersLent(len(self._leases))

    def drain(self) -> None:
        """End all leases and grant no more."""
        self._draining.set()

    # What runs on the connections of peers, which have left HTTP:

    async def keep(self, claim: Claim, stream: trio.abc.Stream) -> None:
        """Run a worker for a claim while its connection lasts; ends with either."""
        await stream.send_all(SWITCHED)
        control = Control(stream)
        with suppress(PeerGoneError):
            try:
                await self._lend(claim, control)
            except TunnelRefusedError as error:
                self._emit(WorkerRefused(error.reason))
                _log.info("no worker is lent to a pipeline of %s: %s", claim.model_id, error)
                await control.send(Refused(error.reason, str(error)))

    async def attach(self, pipeline_id: str, stream: trio.abc.Stream) -> None:
        """Connect a client with a pipeline's worker; ends with either, or with the lease."""
        lease = self._leases.get(pipeline_id)
        far = open_end(stream)
        try:
            if lease is None or lease.worker is None:
                return
            with lease.attached():
                near = await lease.worker.connect()
                await stream.send_all(SWITCHED)
                await relay(far, open_end(near), lambda *_: None)
        except OSError as error:
            _log.info("the worker of pipeline %s cannot be reached: %s", pipeline_id, error)
        finally:
            far.reset()

    async def _lend(self, claim: Claim, control: Control) -> None:
        """Run a worker until it or the coordinator is lost.

        Raises:
            TunnelRefusedError: The claim is not granted.
        """
        with self._granted(claim) as lease:
            try:
                async with open_worker(await self._worker_options(claim)) as worker:
                    lease.worker = worker
                    await self._watch(claim, worker, control)
            except (WorkerFailedError, OSError) as error:
                raise TunnelRefusedError(str(error), "failed") from error

    async def _watch(self, claim: Claim, worker: Worker, control: Control) -> None:
        """Wait until the worker or the coordinator is lost, and say so."""
        _log.info("worker %d is lent to a pipeline of %s", worker.pid, claim.model_id)
        end: WorkerEnd = "released"
        with suppress(PeerGoneError):
            await control.send(Ready())
            end = await self._wait_end(worker, control)
            if end != "released":
                await control.send(Lost(end))
        self._emit(WorkerEnded(end))
        _log.info("worker %d of %s: %s", worker.pid, claim.model_id, end)

    @contextmanager
    def _granted(self, claim: Claim) -> Iterator[_Lease]:
        """Hold a lease while the block runs; its clients' connections end with it.

        Raises:
            TunnelRefusedError: The claim is not granted.
        """
        self._check(claim)
        lease = self._leases[claim.pipeline_id] = _Lease(claim)
        self._tell()
        try:
            yield lease
        finally:
            del self._leases[claim.pipeline_id]
            self._tell()
            for scope in lease.clients:
                scope.cancel()

    def _tell(self) -> None:
        for event in self.levels():
            self._emit(event)

    def _check(self, claim: Claim) -> None:
        """Refuse a claim that cannot be granted.

        Raises:
            TunnelRefusedError: Always in that case, with the numbers.
        """
        if self._draining.is_set():
            raise TunnelRefusedError("the node is stopping", "draining")
        build = self._programs.build
        if build is None:
            raise TunnelRefusedError("the node has no worker to lend", "absent")
        if claim.build != build.name:
            message = f"the worker's build is {build.name!r}, the pipeline's {claim.build!r}"
            raise TunnelRefusedError(message, "build")
        if not self._programs.are_unchanged:
            raise TunnelRefusedError("the worker's program has just been replaced", "build")
        if claim.pipeline_id in self._leases or len(self._leases) >= self._options.places:
            message = f"the node lends {len(self._leases)} of {self._options.places} workers"
            raise TunnelRefusedError(message, "busy")
        room_bytes = self._room_bytes() - self._promised_bytes()
        if not build.has_accelerator and claim.memory_bytes > room_bytes:
            message = (
                f"the layers need {claim.memory_bytes / _GIBIBYTE:.2f} GiB and "
                f"{max(0, room_bytes) / _GIBIBYTE:.2f} GiB are free"
            )
            raise TunnelRefusedError(message, "memory")

    def _promised_bytes(self) -> int:
        """Return what granted claims will still take of the memory that seems free now."""
        leases = self._leases.values()
        return sum(max(0, lease.claim.memory_bytes - lease.held_bytes) for lease in leases)

    async def _worker_options(self, claim: Claim) -> WorkerOptions:
        """Return how to run the worker of a claim, after making room for its tensors on disk.

        Raises:
            OSError: The directory of the tensors cannot be used.
        """
        options = self._options
        fits = await trio.to_thread.run_sync(
            make_room, options.cache, options.cache_bytes, claim.memory_bytes
        )
        build = self._programs.build
        is_limited = options.cpu_only or not (build and build.has_accelerator)
        return WorkerOptions(
            program=self._programs.worker,
            threads=options.threads,
            memory_bytes=claim.memory_bytes if is_limited else None,
            cache=options.cache if fits else None,
            cpu_only=options.cpu_only,
        )

    async def _wait_end(self, worker: Worker, control: Control) -> WorkerEnd:
        """Wait until the worker or the coordinator is lost. Return which."""

        async def follow() -> None:
            with suppress(PeerGoneError):
                while True:
                    await control.receive()
                    await control.send(Beat())

        return await _first(
            (follow, "released"),
            (worker.wait_ended, "ended"),
            (worker.wait_stopped, "frozen"),
            (self._draining.wait, "draining"),
        )


async def _first(*waits: tuple[Callable[[], Awaitable[object]], WorkerEnd]) -> WorkerEnd:
    """Wait until one of the functions returns, cancel the others, and return its outcome."""
    outcomes: list[WorkerEnd] = []

    async def wait(function: Callable[[], Awaitable[object]], outcome: WorkerEnd) -> None:
        await function()
        outcomes.append(outcome)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for function, outcome in waits:
            nursery.start_soon(wait, function, outcome, name=f"lease until {outcome}")
    return outcomes[0]
