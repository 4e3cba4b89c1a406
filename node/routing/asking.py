"""Asks one peer to answer a waiting request, and passes the answer on.

Until the peer begins the request, the request keeps its place in the queue here: the node that
begins it first has it. From then on the peer accounts for it.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Final

import trio

from node.errors import NodeLostError, RequestError
from node.requests import tracing
from node.requests.account import Emit, code_of, reason_of
from node.requests.answer import Answer
from node.requests.attempt import Attempt, verdict_of
from node.requests.request import Token
from node.routing import wire
from node.routing.choice import PeerModel
from node.routing.client import PeerClient, PeerLostError, PeerRefusedError
from node.routing.loads import PeerLoads, Sent
from node.routing.peers import Peers
from shared.events.mesh import MessagesMoved, NetworkFailed, PeerAnswered
from shared.events.requests import RequestForwarded
from shared.events.trace import TraceContext

_LOOK_SECONDS: Final = 0.25
"""How often to check whether a running answer's peer is alive."""
_ADMISSION_SECONDS: Final = 10.0
"""A living peer admits or refuses a request much sooner."""
_OFFER_SECONDS: Final = 2.0
"""The same for a peer that seems free: the request is held for it meanwhile."""
_CLOSING_SECONDS: Final = 1.0
"""How long the rest of a complete answer is read, to keep the connection for the next one."""
_MOST_TOKENS: Final = 2**20
"""No real answer is longer."""

_log = logging.getLogger(__name__)


@dataclass
class Ask:
    """A peer that is asked to answer one request."""

    peer: PeerModel
    attempt: Attempt
    only_if_free: bool
    sent: Sent
    trace: TraceContext | None
    """The forward's place in the trace, below the request's."""
    asked_at: float
    begun: bool = False
    """Whether the peer accounts for the request."""
    error: RequestError | PeerLostError | None = None
    """Why the peer did not answer."""

    @property
    def request_error(self) -> RequestError | None:
        """The error as the caller sees it."""
        if isinstance(self.error, PeerLostError):
            name = self.peer.node_id
            return NodeLostError(f"node {name} was lost before the answer was complete")
        return self.error

    @property
    def is_refused_for_now(self) -> bool:
        """Whether the peer may accept the request later, when it is free."""
        return isinstance(self.error, RequestError) and self.error.others_may_answer


class Asker:
    """Asks peers, in one task per request.

    Args:
        peers: Knows the living peers.
        client: Carries requests and answers.
        loads: Records what this node sends.
        emit: Receives events.
    """

    def __init__(self, peers: Peers, client: PeerClient, loads: PeerLoads, emit: Emit) -> None:
        self._peers = peers
        self._client = client
        self._loads = loads
        self._emit = emit

    def prepare(self, peer: PeerModel, attempt: Attempt, *, only_if_free: bool) -> Ask:
        """Return an ask, whose request counts as sent from now on."""
        attempt.asked.add(peer.node_id)
        now = trio.current_time()
        trace = attempt.answer.request.trace
        below = None if trace is None else tracing.below(trace)
        return Ask(peer, attempt, only_if_free, self._loads.send(peer, now), below, now)

    async def run(self, ask: Ask) -> None:
        """Run an ask. Sets `error` if the peer did not answer and the answer is still wanted."""
        try:
            await self._follow(ask)
        except* (PeerLostError, RequestError) as group:
            ask.error = _first(group)
            self._note_failure(ask)
        finally:
            ask.sent.ended_at = trio.current_time()
            if ask.begun:
                self._emit(_account(ask))

    async def _follow(self, ask: Ask) -> None:
        answer = ask.attempt.answer
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(_break_off, answer, scope, name="answer is over")
            nursery.start_soon(_withdraw, ask, ask.attempt.waited, scope, name="begun elsewhere")
            nursery.start_soon(self._watch, ask, name="peer lives")
            await self._pass_on(ask)
            if not answer.over.is_set():
                raise PeerLostError(f"{ask.peer.node_id} broke off its answer")
            scope.cancel()

    async def _pass_on(self, ask: Ask) -> None:
        answer, peer = ask.attempt.answer, ask.peer
        began = trio.current_time()
        body = wire.pack_request(answer.remainder(only_if_free=ask.only_if_free, trace=ask.trace))
        self._emit(MessagesMoved("sent", "forward", 1, len(body)))
        seconds = _OFFER_SECONDS if ask.only_if_free else _ADMISSION_SECONDS
        with trio.move_on_after(seconds) as patience:
            async with self._client.ask(peer.url, body, _headers(ask)) as frames:
                async for frame in frames:
                    if isinstance(frame, wire.Admitted):
                        waited = trio.current_time() - began
                        self._emit(PeerAnswered(peer.node_id, "forward", waited))
                    else:
                        _take(frame, ask)
                    if ask.begun or not ask.only_if_free:
                        patience.deadline = math.inf
        if patience.cancelled_caught:
            raise PeerLostError(f"{peer.node_id} did not accept the request within {seconds:g} s")

    async def _watch(self, ask: Ask) -> None:
        """Break off when the peer is gone. Runs until cancelled."""
        while True:
            if not self._peers.is_living(ask.peer.node_id):
                raise PeerLostError(f"{ask.peer.node_id} is gone")
            await trio.sleep(_LOOK_SECONDS)

    def _note_failure(self, ask: Ask) -> None:
        if ask.attempt.answer.over.is_set():
            return
        self._loads.refuse(ask.peer, trio.current_time())
        if isinstance(ask.error, PeerLostError):
            request_id = ask.attempt.answer.request.request_id
            _log.warning("request %s lost its node: %s", request_id, ask.error)
            self._emit(NetworkFailed("connection", 1))


async def _break_off(answer: Answer, scope: trio.CancelScope) -> None:
    await answer.over.wait()
    is_complete = answer.ending is not None
    scope.deadline = trio.current_time() + (_CLOSING_SECONDS if is_complete else 0)


async def _withdraw(ask: Ask, waited: trio.Event, scope: trio.CancelScope) -> None:
    await waited.wait()
    if not ask.begun:
        scope.cancel()


def _take(frame: wire.Frame, ask: Ask) -> None:
    """Add a peer's frame to the answer.

    Raises:
        PeerRefusedError: The peer reports that the answer failed.
        OtherModelError: The peer's model is not the one that began the answer.
        PeerLostError: The answer is endless.
    """
    answer = ask.attempt.answer
    if answer.over.is_set():
        return
    if isinstance(frame, wire.Failed):
        parameter = frame.parameter or None
        raise PeerRefusedError(frame.status, frame.message, frame.code, None, parameter)
    if ask.begun or _begin(ask):
        _add(frame, ask)


def _add(frame: wire.Frame, ask: Ask) -> None:
    answer = ask.attempt.answer
    match frame:
        case wire.Accepted(prompt_tokens, cached_tokens, thinks):
            answer.prompt_tokens, answer.cached_tokens = prompt_tokens, cached_tokens
            answer.thinks = thinks
            answer.accepted.set()
        case wire.Drawn(token, piece, likelihood, part):
            if len(answer.tokens) >= _MOST_TOKENS:
                raise PeerLostError(f"{ask.peer.node_id} sent more than {_MOST_TOKENS} tokens")
            answer.take(Token(token, piece, likelihood, part), trio.current_time())
        case wire.Echoed(tokens, text):
            answer.echo(tokens, text)
        case wire.Vector(numbers):
            answer.vector = numbers
        case wire.Tokens(tokens, text):
            answer.prompt = tokens, text
        case wire.Ended(reason, prompt_tokens, cached_tokens, unseen_tokens):
            answer.unseen_tokens = unseen_tokens
            answer.prompt_tokens, answer.cached_tokens = prompt_tokens, cached_tokens
            answer.end("length" if reason == "length" else "stop")


def _begin(ask: Ask) -> bool:
    """Record that the peer has begun the request. Return False if that is too late."""
    attempt = ask.attempt
    attempt.answer.begin(ask.peer.fingerprint)
    ask.begun = attempt.take_over()
    return ask.begun


def _headers(ask: Ask) -> dict[str, str]:
    """Return the headers that name the request, also for what lies between the nodes."""
    request = ask.attempt.answer.request
    headers = {"X-Request-ID": request.request_id}
    if ask.trace is not None:
        headers[tracing.HEADER] = tracing.write(ask.trace)
    if request.trace_state:
        headers[tracing.STATE_HEADER] = request.trace_state
    return headers


def _account(ask: Ask) -> RequestForwarded:
    """Return the event of the end of a peer's part."""
    answer = ask.attempt.answer
    request, now = answer.request, trio.current_time()
    is_over = answer.over.is_set()
    error = answer.error if is_over else ask.request_error
    continues = not is_over and error is not None and error.others_may_answer
    status, finish_reason = (None, None) if continues else verdict_of(answer, error)
    return RequestForwarded(
        model_id=request.model_id,
        peer=ask.peer.node_id,
        status=status,
        finish_reason=finish_reason,
        seconds=now - answer.admitted_at,
        queue_seconds=ask.asked_at - ask.attempt.began_at,
        peer_seconds=now - ask.asked_at,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        generated_tokens=len(answer.tokens) + answer.unseen_tokens,
        ended_at=time.time(),
        request_id=request.request_id,
        trace=request.trace,
        span_id="" if ask.trace is None else ask.trace.span_id,
        route=request.route,
        client=request.credentials,
        operation=request.operation,
        reason=reason_of(error, status),
        code=code_of(error),
    )


def _first(group: BaseExceptionGroup[RequestError | PeerLostError]) -> RequestError | PeerLostError:
    """Return the first error in the groups of nested nurseries."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
