"""One node's attempt at an answer, from its place in the queue to its one end."""

import itertools
from collections.abc import Callable
from typing import Final

import trio

from node.errors import (
    ContextLengthError,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from node.requests.account import Account, Verdict
from node.requests.answer import Answer
from node.requests.parts import Part
from node.requests.request import UNKNOWN_TOKEN, EndReason, Likelihood, Token
from shared.events.requests import ResumeReason

_FRUITLESS_RESUMES: Final = 2
"""How often a request is passed to a new engine without a token in between. A request that ends
every engine is itself the cause."""

_identities = itertools.count(1)


class Attempt:
    """A request that waits on this node or is in its engine.

    It ends exactly once. Either this node counts it, with one `InferenceFinished`, or a peer took
    it over and counts it.

    Args:
        answer: The answer that the attempt adds to.
        account: The account of this attempt alone.
    """

    def __init__(self, answer: Answer, account: Account) -> None:
        self.answer: Final = answer
        self.identity: Final = next(_identities)
        self.began_at: Final = trio.current_time()
        self.over = False
        self.waited = trio.Event()
        """Set when it no longer waits: an engine has it, a peer took it over, or it is over."""
        self.let_go = trio.Event()
        """Set when the engine should release the request, or has released it."""
        self.asked: Final[set[str]] = set()
        """Peers that were asked to take it over but did not."""
        self.taken_over = False
        self.held = False
        """Whether a free peer is being asked to take it over; this node does not begin it
        meanwhile."""
        self._account = account
        self._left_queue: Callable[[Attempt], None] = lambda _: None
        self._released: Callable[[], None] = lambda: None
        self._in_engine = False
        self._begun = False
        self._fruitless = 0
        """Interruptions since the last token."""
        self._foreign = len(answer.tokens)
        """Tokens of the answer that other attempts drew."""
        self._foreign_deltas = self._foreign - len(answer.request.prior)
        self._interruption: ResumeReason | None = "peer_lost" if answer.tokens else None
        answer.on_over = self._note_over

    @property
    def can_move(self) -> bool:
        """Whether another node may take it over: not if this node drew a part of it."""
        forwarded = self.answer.request.forwarded
        return not (forwarded or self.waited.is_set() or self._account.generated_tokens)

    def join(self, left_queue: Callable[["Attempt"], None], released: Callable[[], None]) -> None:
        """Enter a queue.

        Args:
            left_queue: Called when it no longer waits there.
            released: Called when it is no longer held.
        """
        self._left_queue = left_queue
        self._released = released

    def release(self) -> None:
        """Record that it is no longer held."""
        self.held = False
        self._released()

    def take_over(self) -> bool:
        """Pass the request to a peer, which counts it. Return False if it no longer waits."""
        if self.waited.is_set():
            return False
        self.taken_over = self.over = True
        self._leave_queue()
        return True

    def reject(self, error: RequestError) -> None:
        """End it as a request that was never admitted."""
        self.over = True
        self.answer.fail(error)
        if not (self.answer.request.forwarded or self.answer.request.tokenize):
            self._account.close(("rejected", None), self.answer, 0)

    # For the engine:

    @property
    def prior(self) -> tuple[int, ...]:
        """Ids of the tokens so far, which the engine evaluates after the prompt."""
        return tuple(token.identity for token in self.answer.tokens)

    def begin(self, fingerprint: str = "") -> None:
        """Record that an engine has the request now.

        Args:
            fingerprint: The fingerprint of the engine's model; empty if unknown.

        Raises:
            OtherModelError: The tokens so far were drawn by another model of the same name.
        """
        self.answer.begin(fingerprint)
        self._account.begin(self._interruption)
        self._interruption = None
        self._in_engine = self._begun = True
        self.let_go = trio.Event()
        self._leave_queue()

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """Record that `done` of the prompt's `total` tokens are evaluated."""
        del done  # the supervisor watches the progress
        self.answer.accepted.set()
        if not self._account.generated_tokens:  # not if resumed: its own tokens are included
            self.answer.prompt_tokens = total - self._foreign
            self.answer.cached_tokens = cached

    def opened_thoughts(self) -> None:
        """Record that the prompt has opened the model's thoughts."""
        self.answer.thinks = True

    def echoed(self, tokens: tuple[Token, ...], text: str) -> None:
        """Set the prompt's tokens and text, which precede the answer."""
        self.answer.echo(tokens, text)

    def sampled(self, token: int, piece: bytes, likelihood: Likelihood | None = None) -> None:
        """Add one token and its bytes."""
        self._take(Token(token, piece, likelihood))

    def said(self, part: Part) -> None:
        """Add a part that the engine has read itself; it counts as one token."""
        self._take(Token(UNKNOWN_TOKEN, b"", None, part))

    def counted(self, prompt_tokens: int, cached_tokens: int, unseen_tokens: int) -> None:
        """Record the tokens that the engine counted, and those of the answer it never sent."""
        self.answer.unseen_tokens += unseen_tokens
        self._account.count(unseen_tokens)
        if not self.answer.prompt_tokens:
            self.answer.prompt_tokens = prompt_tokens
            self.answer.cached_tokens = cached_tokens

    def embedded(self, vector: tuple[float, ...]) -> None:
        """Set the prompt's vector."""
        self.answer.vector = vector

    def tokenized(self, tokens: tuple[int, ...], text: str) -> None:
        """Set the prompt's tokens and text."""
        self.answer.prompt = tokens, text
        self.answer.prompt_tokens = len(tokens)

    def finished(self, reason: EndReason, message: str, parameter: str = "") -> None:
        """Record that the engine has finished the request."""
        self._in_engine = False
        match reason:
            case "stop" | "length":
                self.answer.end(reason)
            case "cancelled":
                self.answer.close()
            case "too_long":
                self.answer.fail(ContextLengthError(message))
            case "parted":
                self.answer.fail(EngineFailedError(message))
            case "failed":
                self.answer.fail(UnavailableError(message))
            case "unsupported":
                code = "unsupported_by_engine"
                self.answer.fail(InvalidRequestError(message, parameter=parameter, code=code))
            case "refused" | "no_template":
                fault = "no_chat_template" if reason == "no_template" else None
                parameter = parameter or "messages"
                self.answer.fail(InvalidRequestError(message, parameter=parameter, code=fault))
        self._close()

    def declined(self) -> None:
        """Record that the engine cannot begin the request now: it waits again."""
        self._in_engine = False
        self._account.pause()
        if self.answer.over.is_set():
            self._close()
            return
        self._account.decline()
        self.waited = trio.Event()
        self.let_go.set()

    def interrupted(self, reason: ResumeReason) -> None:
        """Record that the engine ended during the request.

        The next `begin` continues from the same point: the prompt and the tokens so far are
        evaluated again. Each token's draw depends only on the seed and its position, so the rest of
        the answer is the same as without the interruption.
        """
        self._in_engine = False
        self._account.pause()
        if self.answer.over.is_set():
            self._close()
        elif self._fruitless >= _FRUITLESS_RESUMES:
            message = f"{self._fruitless + 1} engines ended with this request ({reason})"
            self.failed(EngineFailedError(message))
        else:
            self._fruitless += 1
            self._interruption = reason
            self._account.interrupt()
            self.waited = trio.Event()
            self.let_go.set()

    def failed(self, error: RequestError) -> None:
        """End it with an error for its caller."""
        self.answer.fail(error)
        self._close()

    def _take(self, token: Token) -> None:
        answer = self.answer
        if self.over or answer.ending is not None:
            return
        now = trio.current_time()
        self._account.draw(now)
        self._fruitless = 0
        if not answer.over.is_set():
            answer.take(token, now)

    def _note_over(self) -> None:
        """Stop the attempt, because the answer is over."""
        if self._in_engine:
            self.let_go.set()
        else:
            self._close()

    def _close(self) -> None:
        if self.over:
            return
        self.over = True
        self.let_go.set()
        self._leave_queue()
        self._account.pause()
        if self._counts:
            read_tokens = max(0, self.answer.read_tokens - self._foreign_deltas)
            self._account.close(verdict_of(self.answer), self.answer, read_tokens)

    def _leave_queue(self) -> None:
        if not self.waited.is_set():
            self.waited.set()
            self._left_queue(self)

    @property
    def _counts(self) -> bool:
        """Whether the end is counted here.

        A forwarded request is counted by the forwarding node until an engine here has it, and
        also if that node continues it elsewhere.
        """
        if self.answer.request.tokenize:
            return False
        if not self.answer.request.forwarded:
            return True
        error = self.answer.error
        return self._begun and (error is None or not error.others_may_answer)


def verdict_of(answer: Answer, error: RequestError | None = None) -> Verdict:
    """Return the status and the finish reason with which an answer's end is counted.

    Args:
        answer: The answer.
        error: The error that is about to end it, if it is not over.
    """
    error = answer.error or error
    if answer.ending is not None:
        return "ok", answer.ending.finish_reason
    if error is None:
        return "cancelled", "cancelled"
    if isinstance(error, QueueFullError):  # like a request that was never admitted
        return "rejected", None
    if error.status == 504:
        return "timeout", "error"
    return "rejected" if error.status < 500 else "error", "error"
