"""Turns the stream of one answer, in OpenAI's format, into results; no I/O.

The server has read its model's text: what it calls words, thoughts and calls is passed on as that.
Each piece counts as one token, because few servers say more before the end.
"""

import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from node.engine.protocol import Counted, Evaluated, Finished, Generate, Result, Said, Sampled
from node.engine.upstream.errors import BrokenError, StatusError, UpstreamError, message_of
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words
from node.requests.request import UNKNOWN_TOKEN, Chat

_LINE_BYTES: Final = 4 * 2**20
"""No event is longer: a call that comes whole has a file's text at most."""
_NAME: Final = 256
"""Limit of a function's name and a call's id, in characters."""
_SILENT_TOKENS: Final = 64
"""Tokens without any text that an answer may have: the marks around thoughts and calls. A guess."""
TEMPLATE_TOKENS: Final = 4096
"""Tokens that a template may add to a prompt. A guess."""
_LOST: Final = ("abort", "error")
"""Finish reasons of a server that gave up the answer, as SGLang and vLLM do when they stop."""


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: _Function = _Function()


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """The name for `reasoning_content` of Ollama and newer versions of vLLM."""
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    text: str | None = None
    """In a completion, instead of the delta."""
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decoder: Final = msgspec.json.Decoder(_Chunk)


class StreamReader:
    """Reads one stream.

    Args:
        command: The request.
        body_bytes: The length of its body, which bounds the tokens of its prompt.
    """

    def __init__(self, command: Generate, body_bytes: int) -> None:
        self._command = command
        self._body_bytes = body_bytes
        self._is_chat = isinstance(command.prompt, Chat)
        self._rest = b""
        self._calls: dict[int, tuple[int, str | None]] = {}
        """The number and the id of the newest call at each of the server's indexes."""
        self._begun_calls = 0
        self._pieces = 0
        self._octets = 0
        self._reason: str | None = None
        self._usage: Any = None
        self._is_accepted = False
        self._fault: UpstreamError | None = None
        self.is_done = False
        """Whether nothing more is read: the end mark or a fault has come."""

    @property
    def has_ended(self) -> bool:
        """Whether the answer is complete; its usage may follow."""
        return self.is_done or self._reason is not None

    def feed(self, received: bytes) -> list[Result]:
        """Return the results in received bytes; an incomplete line is kept for the next call.

        Nothing is read after the end mark or a fault, which `finish` raises.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        results: list[Result] = []
        try:
            for line in lines:
                results += self._read_line(line)
            if len(self._rest) > _LINE_BYTES:
                raise BrokenError(f"an event of more than {_LINE_BYTES} bytes")
        except UpstreamError as error:
            self._fault = error
            self.is_done = True
        return results

    def finish(self) -> list[Result]:
        """Return the counts and the end of the answer.

        Raises:
            BrokenError: The answer is not complete: it broke off, or is no stream in this format.
            StatusError: The server reported an error of the request.
        """
        if self._reason is None and self._fault is not None:
            raise self._fault
        if not self.has_ended:
            raise BrokenError("it broke off the answer")
        request = self._command.request
        finished = Finished(request, "length" if self._reason == "length" else "stop", "")
        return [self._count(), finished]

    def _read_line(self, line: bytes) -> Iterator[Result]:
        name, _, value = line.partition(b":")
        if name != b"data" or self.is_done:  # comments keep the connection alive and say nothing
            return
        event = value.strip()
        if event == b"[DONE]":
            self.is_done = True
            return
        try:
            chunk = _decoder.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BrokenError(f"an invalid event: {error}") from error
        yield from self._read_chunk(chunk)

    def _read_chunk(self, chunk: _Chunk) -> Iterator[Result]:
        if chunk.error is not None:
            raise _reported(chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in (chunk.choices or ())[:1]:
            if choice.finish_reason in _LOST:
                raise BrokenError(f"it ended the answer with {choice.finish_reason!r}")
            if not self._is_accepted:
                self._is_accepted = True
                so_far = len(self._command.said)
                yield Evaluated(self._command.request, so_far, so_far, 0)
            yield from self._read_choice(choice)
            self._reason = choice.finish_reason or self._reason

    def _read_choice(self, choice: _Choice) -> Iterator[Result]:
        request = self._command.request
        if not self._is_chat:
            if choice.text:
                self._note(choice.text)
                yield Sampled(request, UNKNOWN_TOKEN, choice.text.encode(errors="replace"))
            return
        for part in self._parts(choice.delta):
            self._note(part.name if isinstance(part, CallBegun) else part.text)
            yield Said(request, part)

    def _parts(self, delta: _Delta) -> Iterator[Part]:
        if thought := delta.reasoning_content or delta.reasoning:
            yield Thought(thought)
        if delta.content:
            yield Words(delta.content)
        for call in delta.tool_calls or ():
            yield from self._read_call(call)

    def _read_call(self, call: _Call) -> Iterator[Part]:
        """Read a piece of a call; some servers send each call whole and call them all the first."""
        number, identity = self._calls.get(call.index, (-1, None))
        is_other = call.id not in (None, "", identity)
        if number < 0 or (call.function.name and is_other):
            number = self._begun_calls
            self._begun_calls += 1
            self._calls[call.index] = number, call.id
            identity = (call.id or secrets.token_hex(5)[:9])[:_NAME]
            yield CallBegun(number, (call.function.name or "")[:_NAME], identity)
        if call.function.arguments:
            yield CallArguments(number, call.function.arguments)

    def _note(self, text: str) -> None:
        self._pieces += 1
        self._octets += len(text.encode(errors="replace"))

    def _count(self) -> Counted:
        """Return the server's counts as far as they can be true."""
        usage = self._usage if isinstance(self._usage, dict) else {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        prompt = within(usage.get("prompt_tokens"), 0, self._body_bytes + TEMPLATE_TOKENS)
        most = self._octets + _SILENT_TOKENS
        if self._command.max_tokens:
            most = min(most, self._command.max_tokens - len(self._command.said))
        generated = within(usage.get("completion_tokens"), self._pieces, most)
        return Counted(
            self._command.request,
            max(0, prompt - len(self._command.said)),
            within(cached, 0, prompt),
            max(0, generated - self._pieces),
        )


def within(value: Any, least: int, most: int) -> int:
    """Return a number if it is within its bounds, else 0."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and least <= value <= most else 0


def _reported(error: Any) -> BrokenError | StatusError:
    """Return an error that came in the middle of a stream."""
    message = message_of(error)
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 500:
        return StatusError(code, message)
    return BrokenError(f"it reported an error: {message}")
