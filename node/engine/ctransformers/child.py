"""The engine child: reads commands, drives the engine, writes results. No Trio, one thread.

It ends when its standard input ends, and at once when its results cannot be delivered. When the
node is gone, the kernel kills it (`shared.runtime.lifeline`), whatever it is doing.
"""

import os
import select
import signal
import sys
from collections import deque
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Final

from node.engine import protocol
from node.engine.chat import (
    ChatRefusedError,
    NoTemplateError,
    marked,
    opens_thoughts,
    render_chat,
)
from node.engine.ctransformers import header
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.ctransformers.likelihood import measure, score_prompt
from node.engine.marks import Marker, without_marks
from node.engine.model_file import UnusableModelError, open_model
from node.engine.protocol import (
    Cancel,
    Command,
    Echoed,
    Embedded,
    Evaluated,
    Finished,
    Generate,
    Load,
    Read,
    Sampled,
    ThoughtsOpened,
    Tokenize,
    Tokenized,
)
from node.engine.vocabulary import Vocabulary
from node.requests.request import Chat, EndReason, Prompt, Token
from shared.paths import readable

_COMMANDS: Final = 0
_READ_BYTES: Final = 64 * 1024
_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")
"""Where open files have names: on Linux, whose containers may lack the second, and elsewhere."""
_END_TOKENS: Final = 12
"""Tokens in which a prompt's last mark is, even if each has one character."""
_FILE_READ_BYTES: Final = 16 * 2**20
_EXTRAS: Final = {
    "min_p": 0,
    "typical_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": (),
}
"""Ways of drawing that the library does not have, and their values that are off."""


class Link:
    """The two pipes to the node."""

    def __init__(self, results: int) -> None:
        self._results = results
        self._reader = protocol.FrameReader()
        self._waiting: deque[Command] = deque()

    def receive(self) -> Command:
        """Wait for the next command.

        Raises:
            EOFError: The node is gone.
        """
        while not self._waiting:
            self._read()
        return self._waiting.popleft()

    def send(self, result: protocol.Result) -> None:
        """Write one result. Waits while the pipe is full.

        Raises:
            BrokenPipeError: The node is gone.
        """
        unsent = memoryview(protocol.frame(result))
        while unsent:
            unsent = unsent[os.write(self._results, unsent) :]

    def cancelled(self, request: int) -> bool:
        """Return, without waiting, whether the node has cancelled the request."""
        while select.select([_COMMANDS], [], [], 0)[0]:
            self._read()
        return any(isinstance(c, Cancel) and c.request == request for c in self._waiting)

    def forget_cancels(self) -> None:
        """Drop cancels of requests that have ended."""
        self._waiting = deque(c for c in self._waiting if not isinstance(c, Cancel))

    def _read(self) -> None:
        received = os.read(_COMMANDS, _READ_BYTES)
        if not received:
            raise EOFError
        frames = self._reader.feed(received)
        self._waiting.extend(map(protocol.command_decoder.decode, frames))


class Child:
    """One loaded model that answers one request at a time."""

    def __init__(
        self, link: Link, engine: CTransformersEngine, vocabulary: Vocabulary, options: Load
    ) -> None:
        self._link = link
        self._engine = engine
        self._vocabulary = vocabulary
        self._marker = Marker(vocabulary.control)
        self._batch_tokens = options.batch_tokens

    def serve(self) -> None:
        """Answer requests until the node is gone (EOFError)."""
        while True:
            command = self._link.receive()
            if isinstance(command, Tokenize):
                self._link.send(self._show(command))
            elif isinstance(command, Generate):
                if unsupported := _find_unsupported(command):
                    self._link.send(unsupported)
                else:
                    self._link.send(self._generate(command))
                self._link.forget_cancels()

    def _show(self, command: Tokenize) -> Finished:
        """Send the tokens and the text of a prompt."""
        prompt = command.prompt
        try:
            tokens = self._tokenize(prompt)
            text = without_marks(self._render(prompt)) if isinstance(prompt, Chat) else prompt
        except ChatRefusedError as error:
            return _refused(command.request, error)
        if not isinstance(text, str):
            pieces = b"".join(self._engine.text(token) for token in tokens)
            text = pieces.decode(errors="replace")
        self._link.send(Tokenized(command.request, tuple(tokens), text))
        return Finished(command.request, "stop", "")

    def _generate(self, command: Generate) -> Finished:
        try:
            tokens = self._tokenize(command.prompt)
        except ChatRefusedError as error:
            return _refused(command.request, error)
        if isinstance(command.prompt, Chat) and opens_thoughts(self._end(tokens)):
            self._link.send(ThoughtsOpened(command.request))
        room = self._engine.context_length - len(tokens)
        if room < 1:
            message = (
                f"the prompt has {len(tokens)} tokens; the model's context holds "
                f"{self._engine.context_length}, including the answer"
            )
            return Finished(command.request, "too_long", message)
        wanted = min(command.max_tokens or room, room) - len(command.prior)
        if wanted < 1:  # an earlier child drew the last one but died before it reported the end
            return Finished(command.request, "length", "")
        return self._answer(command, tokens, wanted)

    def _answer(self, command: Generate, tokens: list[int], wanted: int) -> Finished:
        """Answer a prompt with as many tokens as wanted, after the prior ones."""
        if command.echo and not command.prior and not self._echo(command, tokens):
            return Finished(command.request, "cancelled", "")
        if command.echo_only:
            return Finished(command.request, "length", "")
        tokens += command.prior
        if not self._evaluate(command.request, tokens):
            return Finished(command.request, "cancelled", "")
        if command.embed:
            self._link.send(Embedded(command.request, self._engine.vector()))
            return Finished(command.request, "stop", "")
        return Finished(command.request, self._decode(command, len(tokens), wanted), "")

    def _echo(self, command: Generate, tokens: list[int]) -> bool:
        """Send the prompt's text, and its tokens with their likelihoods if they are wanted.

        Return False if it was cancelled.
        """
        text = command.prompt
        if not isinstance(text, str):
            text = b"".join(map(self._engine.text, tokens)).decode(errors="replace")
        scored: list[Token] = []
        wanted = [] if command.logprobs is None else tokens
        for token in score_prompt(self._engine, wanted, command.logprobs or 0):
            if self._link.cancelled(command.request):
                return False
            scored.append(token)
            self._link.send(Evaluated(command.request, len(scored), len(tokens), 0))
        self._link.send(Echoed(command.request, tuple(scored), text))
        return True

    def _tokenize(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            ChatRefusedError: The model's template refuses it, it has no tokens, or one of its
                tokens is not the model's.
        """
        if isinstance(prompt, str):
            tokens = self._engine.tokenize(prompt, control_tokens=False)
        elif isinstance(prompt, Chat):
            tokens = self._engine.tokenize(self._render(prompt), control_tokens=True)
        else:
            tokens = self._check(prompt)
        if not tokens:
            raise ChatRefusedError("the prompt is empty: this model needs a text to continue")
        return tokens

    def _render(self, chat: Chat) -> str:
        known = self._vocabulary
        return render_chat(
            known.template,
            chat.turns,
            special={**marked(chat.options, self._marker), **known.special},
            marker=self._marker,
        )

    def _end(self, tokens: Sequence[int]) -> str:
        """Return the last characters of a prompt."""
        return b"".join(map(self._engine.text, tokens[-_END_TOKENS:])).decode(errors="ignore")

    def _check(self, tokens: Sequence[int]) -> list[int]:
        known = self._engine.vocabulary_size
        if (foreign := next((token for token in tokens if token >= known), None)) is not None:
            message = f"the prompt has the token {foreign}; this model's tokens end at {known - 1}"
            raise ChatRefusedError(message)
        return list(tokens)

    def _evaluate(self, request: int, tokens: list[int]) -> bool:
        """Evaluate the prompt in chunks. Return False if it was cancelled between two."""
        total = len(tokens)
        done = cached = total - len(self._engine.rewind(tokens))
        while done < total:
            if self._link.cancelled(request):
                return False
            end = self._engine.chunk_end(done, total, self._batch_tokens)
            self._engine.evaluate(tokens[done:end])
            done = end
            self._link.send(Evaluated(request, done, total, cached))
        return True

    def _decode(self, command: Generate, position: int, limit: int) -> EndReason:
        for generated in range(1, limit + 1):
            if self._link.cancelled(command.request):
                return "cancelled"
            may_end = len(command.prior) + generated > command.min_tokens
            logits = () if command.logprobs is None else self._engine.logits()
            token = self._engine.sample(command.sampling, position, may_end=may_end)
            if self._engine.is_end(token):
                return "stop"
            # Sent before the token is evaluated, so that the client does not wait a step longer.
            text = self._engine.text(token)
            likelihood = measure(logits, token, command.logprobs or 0, self._engine.text)
            self._link.send(Sampled(command.request, token, text, likelihood))
            if generated < limit:
                self._engine.evaluate([token])
            position += 1
        return "length"


def _refused(request: int, error: ChatRefusedError) -> Finished:
    reason: EndReason = "no_template" if isinstance(error, NoTemplateError) else "refused"
    return Finished(request, reason, str(error))


def _find_unsupported(command: Generate) -> Finished | None:
    """Return how a request ends that this engine cannot answer; None if it can."""
    sampling = command.sampling
    if isinstance(command.prompt, Chat) and command.prompt.tools:
        field, wanted = "tools", "`tools`"
    elif command.schema is not None:
        field, wanted = "response_format", "an answer that must match a schema (`response_format`)"
    elif extras := [name for name, off in _EXTRAS.items() if getattr(sampling, name) != off]:
        field, wanted = extras[0], " and ".join(f"`{name}`" for name in extras)
    else:
        return None
    message = f"the engine of this model does not support {wanted}: load it with --engine=llama.cpp"
    return Finished(command.request, "unsupported", message, parameter=field)


def load(link: Link, command: Load) -> Child | None:
    """Check the model's header, load the model and report it; None if it cannot be used."""
    path = Path(os.fsdecode(command.path))
    try:
        with open_model(path) as file:
            return _load_open(link, command, file, path)
    except UnusableModelError as error:
        link.send(protocol.LoadFailed(str(error)))
    except (RuntimeError, OSError, ValueError) as error:
        why = " ".join(str(error).split())
        link.send(protocol.LoadFailed(f"the engine failed to load {readable(path)}: {why}"))
    return None


def _load_open(link: Link, command: Load, file: BufferedReader, path: Path) -> Child:
    vocabulary = header.read_open_header(file, path).vocabulary
    read_through(link, file)
    # By its descriptor, so that it is the file that was checked, even if its name changes
    # meanwhile.
    opened = _open_name(file) or os.fsdecode(command.path)
    engine = CTransformersEngine(opened, command.context_length, command.threads, vocabulary)
    link.send(protocol.Loaded(engine.context_length))
    return Child(link, engine, vocabulary, command)


def _open_name(file: BufferedReader) -> str:
    """Return a name by which an open file can be opened again; "" if the system has none."""
    names = (f"{directory}/{file.fileno()}" for directory in _DESCRIPTORS)
    return next(filter(os.path.exists, names), "")


def read_through(link: Link, file: BufferedReader) -> None:
    """Read the model's file once, so that it is in memory, and report the progress.

    Otherwise the library maps the file and waits silently for each page from the disk.
    """
    total = os.fstat(file.fileno()).st_size
    buffer = bytearray(_FILE_READ_BYTES)
    done = 0
    file.seek(0)
    while count := file.readinto(buffer):
        done += count
        link.send(Read(done, total))
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # where reopening a descriptor shares its position


def main() -> None:
    """Serve the node on the pipe whose number is the argument, until the node is gone."""
    # The node decides when the child ends: a signal to the whole group must not interrupt its
    # drain.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = Link(int(sys.argv[1]))
    try:
        command = link.receive()
        if isinstance(command, Load) and (child := load(link, command)):
            child.serve()
    except (EOFError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
