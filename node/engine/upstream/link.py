"""Exchanges the engine's messages with a server elsewhere, which the node cannot start or end.

Loading checks that the server has the model; killing the link drops all requests. Each request is a
task with a connection of its own; closing the connection makes the server stop.
"""

import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from node.engine import protocol
from node.engine.link import receive_waiting
from node.engine.protocol import (
    Cancel,
    Dropped,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Resized,
    Result,
    Tokenize,
)
from node.engine.upstream.address import Address
from node.engine.upstream.allowance import Allowance
from node.engine.upstream.asking import Asking, Progress
from node.engine.upstream.check import TOO_MANY, Check, Served, UnusableError, check, find_model
from node.engine.upstream.client import UpstreamClient
from node.engine.upstream.endings import ending_of, is_of_server
from node.engine.upstream.errors import StatusError, UpstreamError
from node.errors import StartupError
from shared.runtime.silence import wait_silence

_WAITING: Final = 64
"""Lists of results that may wait for the supervisor. While there are more, the streams wait."""
_CHECK_SECONDS: Final = 10.0
"""How long a server may take to say which models it has."""
_IDLE_SECONDS: Final = 5.0
"""How long nothing is asked before the server is checked."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpstreamOptions:
    """How to use a server."""

    address: Address
    model_id: str
    """The model's name in log lines."""
    stall_seconds: float
    """A request that makes no progress for this long is given up here."""


class UpstreamLink:
    """The way to one server, from the check that it has the model to the loss of the server.

    Args:
        nursery: Runs the tasks of the requests.
        options: How to use the server.
        client: Its connections.
    """

    def __init__(
        self, nursery: trio.Nursery, options: UpstreamOptions, client: UpstreamClient
    ) -> None:
        self.last_lines: deque[str] = deque()
        self.stalled = False
        self.held_tokens: int | None = None
        self.pid: Final = 0
        self._nursery = nursery
        self._options = options
        self._client = client
        self._results, self._received = trio.open_memory_channel[list[Result]](_WAITING)
        self._scopes: dict[int, trio.CancelScope] = {}
        """The running requests."""
        self._served = Served("", 0)
        self._allowance = Allowance(1)
        self._progress = Progress()
        self._refused = trio.Event()
        """Set when the server has not taken a request."""
        self._suspected = trio.Event()
        """Set when the server may be gone."""
        self._epitaph = f"{options.address} was released"

    def kill(self, *, stalled: bool = False) -> None:
        """Drop the server and all requests at once."""
        self.stalled = self.stalled or stalled
        self._results.close()
        for scope in self._scopes.values():
            scope.cancel()

    async def send(self, command: protocol.Command) -> None:
        """Begin what a command requests; `receive` returns the results."""
        await trio.lowlevel.checkpoint()
        match command:
            case Load():
                self._nursery.start_soon(self._load, command, name=f"load of {self._name}")
            case Generate(request) | Tokenize(request):
                self._scopes[request] = trio.CancelScope()
                name = f"request {request} of {self._name}"
                self._nursery.start_soon(self._answer, command, name=name)
            case Cancel(request) if request in self._scopes:
                self._scopes[request].cancel()

    async def receive(self) -> list[Result]:
        """Wait for results. Return an empty list when the server is lost."""
        return await receive_waiting(self._received)

    async def wait_epitaph(self) -> str:
        """Return in one line why the server is lost."""
        await trio.lowlevel.checkpoint()
        return self._epitaph

    @property
    def _name(self) -> str:
        return self._options.model_id

    async def _load(self, load: Load) -> None:
        """Check the server and report it; then watch it until it is lost."""
        address = self._options.address
        with contextlib.suppress(trio.ClosedResourceError):
            try:
                with trio.fail_after(_CHECK_SECONDS):
                    self._served = await check(self._client, address)
            except UnusableError as error:
                await self._results.send([LoadFailed(self._client.hide(str(error)))])
            except (UpstreamError, trio.TooSlowError) as error:
                self._lose(error)
            else:
                self._allowance = Allowance(load.slots)
                length = load.context_length or self._served.context_length
                await self._results.send([Loaded(length, load.slots, self._served.kind)])
                self._nursery.start_soon(self._watch, name=f"check of {self._name}")
                self._nursery.start_soon(self._pace, name=f"pace of {self._name}")

    async def _watch(self) -> None:
        """Check the server while it is idle or suspected. Ends when it is lost."""
        while True:
            with trio.move_on_after(_IDLE_SECONDS):
                await self._suspected.wait()
            if self._scopes and not self._suspected.is_set():
                continue
            is_suspected = self._suspected.is_set()
            self._suspected = trio.Event()
            if (fault := await self._find_fault(check if is_suspected else find_model)) is None:
                continue
            if not self._scopes:
                self._lose(fault)
                return
            self._suspected.set()  # what it still answers may end
            await trio.sleep(1)

    async def _find_fault(self, look: Check) -> Exception | None:
        """Return why the server cannot be used now; None if it can."""
        try:
            with trio.fail_after(_CHECK_SECONDS):
                await look(self._client, self._options.address)
        except StatusError as error:
            return None if error.status == TOO_MANY else error
        except (UnusableError, UpstreamError, trio.TooSlowError) as error:
            return error
        return None

    async def _pace(self) -> None:
        """Send a server that refused requests more of them, one after each pause."""
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                await self._refused.wait()
                self._refused = trio.Event()
                while not self._allowance.is_full:
                    await trio.sleep(self._allowance.pause_seconds)
                    self._allowance.grow()
                    await self._results.send([Resized(self._allowance.slots)])

    def _lose(self, error: Exception) -> None:
        """End the link, because the server does not answer."""
        is_slow = isinstance(error, trio.TooSlowError)
        why = f"no answer within {_CHECK_SECONDS:g} s" if is_slow else str(error)
        self._epitaph = self._client.hide(f"{self._options.address} cannot be used: {why}")
        self.kill()

    async def _answer(self, command: Generate | Tokenize) -> None:
        """Answer one request; its last result ends it, also if it is cancelled."""
        request = command.request
        last: list[Result] = [Finished(request, "cancelled", "")]
        with contextlib.suppress(trio.ClosedResourceError):
            try:
                with self._scopes[request]:
                    last = await self._find_last(command)
            finally:
                del self._scopes[request]
                self._progress.forget(request)
            await self._results.send(last)

    async def _find_last(self, command: Generate | Tokenize) -> list[Result]:
        """Answer a request and return its last results."""
        request = command.request
        with trio.CancelScope() as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up_stalled, request, patience, name="stall")
                last = await self._ask(command)
                nursery.cancel_scope.cancel()
        if patience.cancelled_caught:
            seconds = self._options.stall_seconds
            _log.warning("request %d at %s: no progress for %g s", request, self._name, seconds)
            return [*self._refuse(), Dropped(request, "stalled")]
        return last

    async def _give_up_stalled(self, request: int, patience: trio.CancelScope) -> None:
        """Cancel a request that makes no progress. Runs until then or until cancelled."""
        await wait_silence(lambda: self._progress.last_sign(request), self._options.stall_seconds)
        patience.cancel()

    async def _ask(self, command: Generate | Tokenize) -> list[Result]:
        asking = Asking(self._client, self._options.address, self._served)
        try:
            last = await asking.answer(command, self._pass_on)
        except UpstreamError as error:
            return self._explain(command, error)
        was_full = self._allowance.is_full
        self._allowance.succeed()
        return last if was_full else [*last, Resized(self._allowance.slots)]

    async def _pass_on(self, results: list[Result]) -> None:
        for result in results:
            self._progress.note(result)
        with contextlib.suppress(trio.ClosedResourceError):  # then the request is cancelled
            await self._results.send(results)

    def _explain(self, command: Generate | Tokenize, error: UpstreamError) -> list[Result]:
        """Return how a request ends that the server did not answer."""
        message = self._client.hide(str(error))
        ending = ending_of(command, error, self._options.address, message)
        if is_of_server(error):
            self._suspected.set()
        if isinstance(ending, Finished):
            return [ending]
        _log.warning("request %d at %s: %s", command.request, self._name, message)
        wished = error.retry_seconds if isinstance(error, StatusError) else None
        return [*self._refuse(wished), ending]

    def _refuse(self, wished_seconds: float | None = None) -> list[Result]:
        """Record that the server did not take a request, which is still among the running ones."""
        self._allowance.refuse(len(self._scopes) - 1, wished_seconds)
        self._refused.set()
        return [Resized(self._allowance.slots)]


@asynccontextmanager
async def open_upstream(options: UpstreamOptions) -> AsyncIterator[UpstreamLink]:
    """Yield the way to a server, which is checked when the model is loaded.

    Raises:
        OSError: Its key or the CAs cannot be read.
    """
    try:
        client = UpstreamClient(options.address, options.address.read_key())
    except StartupError as error:
        raise OSError(str(error)) from error
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield UpstreamLink(nursery, options, client)
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await client.close()
