"""The requests that one engine works on, each with its own progress."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from node.engine import protocol
from node.errors import RequestError
from node.requests.parts import Part
from node.requests.request import EndReason, Likelihood, Token
from shared.events.engine import RestartReason

_OF_NO_JOB: Final = (protocol.Read, protocol.Loaded, protocol.LoadFailed, protocol.Resized)


class Job(Protocol):
    """Callbacks of the engine for one request."""

    @property
    def identity(self) -> int:
        """The request's number in the engine's messages."""

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """`done` of `total` prompt tokens are evaluated."""

    def sampled(self, token: int, piece: bytes, likelihood: Likelihood | None = None) -> None:
        """One token was drawn."""

    def said(self, part: Part) -> None:
        """One token's part of the answer, instead of the token."""

    def counted(self, prompt_tokens: int, cached_tokens: int, unseen_tokens: int) -> None:
        """The tokens as the engine counted them; some of the answer's were never seen."""

    def opened_thoughts(self) -> None:
        """The prompt has opened the model's thoughts."""

    def echoed(self, tokens: tuple[Token, ...], text: str) -> None:
        """The prompt's tokens and its text, if they were requested before the answer."""

    def embedded(self, vector: tuple[float, ...]) -> None:
        """The prompt's vector, if it was requested."""

    def tokenized(self, tokens: tuple[int, ...], text: str) -> None:
        """The prompt's tokens and text, if they were requested."""

    def finished(self, reason: EndReason, message: str, parameter: str = "") -> None:
        """The engine has finished the request, perhaps for a fault of one of its fields."""

    def declined(self) -> None:
        """The engine cannot begin the request now."""

    def interrupted(self, reason: RestartReason) -> None:
        """The engine ended during the request."""

    def failed(self, error: RequestError) -> None:
        """There will be no engine for the request."""


@dataclass
class _Held:
    """A job in the engine."""

    job: Job
    progressed_at: float
    """Trio time of its last prompt chunk or token."""
    draws: bool = False
    """Whether its prompt is evaluated."""
    tokens: int = 0
    """Tokens of its prompt and its answer in the engine's context."""
    freed: trio.Event = field(default_factory=trio.Event)


class Jobs:
    """The jobs of one engine process.

    Args:
        speculated: Called with the tokens that the engine guessed for a request, and how many of
            them were right.
    """

    def __init__(self, speculated: Callable[[int, int], None]) -> None:
        self._speculated = speculated
        self._held: dict[int, _Held] = {}
        self._progressed_at = 0.0
        """Trio time of any job's last progress."""

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self._held)

    def __contains__(self, job: Job) -> bool:
        """Return whether the engine works on the job."""
        return job.identity in self._held

    @property
    def silent_since(self) -> float | None:
        """Trio time since when the most silent job makes no progress; None without a job.

        Prompts share an engine's evaluations, so a long one may delay others for minutes: until
        its first token, a job counts as progressing with the whole engine.
        """
        return min(map(self._last_sign, self._held.values()), default=None)

    @property
    def decoding(self) -> int:
        """The jobs whose tokens are drawn now, in common steps."""
        return sum(held.draws for held in self._held.values())

    @property
    def tokens(self) -> int:
        """Tokens of all jobs in the engine's context."""
        return sum(held.tokens for held in self._held.values())

    def add(self, job: Job) -> None:
        """Add a job that the engine begins."""
        self._held[job.identity] = _Held(job, trio.current_time())

    async def wait_freed(self, job: Job) -> None:
        """Wait until the engine no longer works on the job."""
        if held := self._held.get(job.identity):
            await held.freed.wait()

    def take(self, results: Iterable[protocol.Result]) -> None:
        """Pass results to their jobs; those of a job that has ended are dropped."""
        self._progressed_at = now = trio.current_time()
        for result in results:
            if isinstance(result, _OF_NO_JOB):
                continue
            if held := self._held.get(result.request):
                held.progressed_at = now
                self._pass_on(held, result)

    def clear(self) -> Iterator[Job]:
        """Remove every job, because the engine is gone, and yield it."""
        while self._held:
            yield self._remove(next(iter(self._held)))

    def _pass_on(self, held: _Held, result: protocol.JobResult) -> None:
        match result:
            case protocol.Sampled(_, token, text, likelihood):
                held.draws = True
                held.tokens += 1
                held.job.sampled(token, text, likelihood)
            case protocol.Said(_, part):
                held.draws = True
                held.job.said(part)
            case protocol.Evaluated(_, done, total, cached):
                held.tokens = done
                held.job.evaluated(done, total, cached)
            case protocol.Finished() | protocol.Declined() | protocol.Dropped():
                self._end(result)
            case _:
                _tell(held.job, result)

    def _end(self, result: protocol.Ended) -> None:
        job = self._remove(result.request)
        match result:
            case protocol.Declined():
                job.declined()
            case protocol.Dropped(_, reason):
                job.interrupted(reason)
            case protocol.Finished(_, ending, message):
                if result.drafted:
                    self._speculated(result.drafted, result.accepted)
                job.finished(ending, message, result.parameter)

    def _remove(self, request: int) -> Job:
        held = self._held.pop(request)
        held.freed.set()
        return held.job

    def _last_sign(self, held: _Held) -> float:
        return held.progressed_at if held.draws else max(held.progressed_at, self._progressed_at)


def _tell(job: Job, result: protocol.JobResult) -> None:
    """Pass on a result that is neither progress nor an end."""
    match result:
        case protocol.Counted(_, prompt_tokens, cached_tokens, unseen_tokens):
            job.counted(prompt_tokens, cached_tokens, unseen_tokens)
        case protocol.Echoed(_, tokens, text):
            job.echoed(tokens, text)
        case protocol.ThoughtsOpened():
            job.opened_thoughts()
        case protocol.Embedded(_, vector):
            job.embedded(vector)
        case protocol.Tokenized(_, tokens, text):
            job.tokenized(tokens, text)
