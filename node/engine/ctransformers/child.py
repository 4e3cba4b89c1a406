"""The engine child: reads commands, drives the engine, writes results. No Trio, one thread.

It ends when its standard input ends, and at once when its results cannot be delivered. When the
node is gone, the kernel kills it (`shared.runtime.lifeline`), whatever it is doing.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Final

from node.engine import protocol
from node.engine.chat import ChatRefusedError, NoTemplateError, opens_thoughts
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.ctransformers.likelihood import measure, score_prompt
from node.engine.ctransformers.pipes import Pipes
from node.engine.ctransformers.prompts import Prompts
from node.engine.ctransformers.weights import open_weights
from node.engine.model_file import UnusableModelError, open_model
from node.engine.protocol import (
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
from node.requests.request import Chat, EndReason, Token
from shared.paths import readable

_EXTRAS: Final = {
    "min_p": 0,
    "typical_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": (),
}
"""Ways of drawing that the library does not have, and their values that are off."""


class Child:
    """One loaded model that answers one request at a time."""

    def __init__(
        self, pipes: Pipes, engine: CTransformersEngine, prompts: Prompts, batch_tokens: int
    ) -> None:
        self._pipes = pipes
        self._engine = engine
        self._prompts = prompts
        self._batch_tokens = batch_tokens

    def serve(self) -> None:
        """Answer requests until the node is gone (EOFError)."""
        while True:
            command = self._pipes.receive()
            if isinstance(command, Tokenize):
                self._pipes.send(self._show(command))
            elif isinstance(command, Generate):
                if unsupported := _find_unsupported(command):
                    self._pipes.send(unsupported)
                else:
                    self._pipes.send(self._generate(command))
                self._pipes.forget_cancels()

    def _show(self, command: Tokenize) -> Finished:
        """Send the tokens and the text of a prompt."""
        try:
            tokens = self._prompts.tokenize(command.prompt)
            text = self._prompts.text(command.prompt)
        except ChatRefusedError as error:
            return _refused(command.request, error)
        self._pipes.send(Tokenized(command.request, tuple(tokens), text))
        return Finished(command.request, "stop", "")

    def _generate(self, command: Generate) -> Finished:
        try:
            tokens = self._prompts.tokenize(command.prompt)
        except ChatRefusedError as error:
            return _refused(command.request, error)
        if isinstance(command.prompt, Chat) and opens_thoughts(self._prompts.end(tokens)):
            self._pipes.send(ThoughtsOpened(command.request))
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
            self._pipes.send(Embedded(command.request, self._engine.vector()))
            return Finished(command.request, "stop", "")
        return Finished(command.request, self._decode(command, len(tokens), wanted), "")

    def _echo(self, command: Generate, tokens: list[int]) -> bool:
        """Send the prompt's text, and its tokens with their likelihoods if they are wanted.

        Return False if it was cancelled.
        """
        text = command.prompt if isinstance(command.prompt, str) else self._prompts.join(tokens)
        scored: list[Token] = []
        wanted = [] if command.logprobs is None else tokens
        for token in score_prompt(self._engine, wanted, command.logprobs or 0):
            if self._pipes.cancelled(command.request):
                return False
            scored.append(token)
            self._pipes.send(Evaluated(command.request, len(scored), len(tokens), 0))
        self._pipes.send(Echoed(command.request, tuple(scored), text))
        return True

    def _evaluate(self, request: int, tokens: list[int]) -> bool:
        """Evaluate the prompt in chunks. Return False if it was cancelled between two."""
        total = len(tokens)
        done = cached = total - len(self._engine.rewind(tokens))
        while done < total:
            if self._pipes.cancelled(request):
                return False
            end = self._engine.chunk_end(done, total, self._batch_tokens)
            self._engine.evaluate(tokens[done:end])
            done = end
            self._pipes.send(Evaluated(request, done, total, cached))
        return True

    def _decode(self, command: Generate, position: int, limit: int) -> EndReason:
        for generated in range(1, limit + 1):
            if self._pipes.cancelled(command.request):
                return "cancelled"
            may_end = len(command.prior) + generated > command.min_tokens
            logits = () if command.logprobs is None else self._engine.logits()
            token = self._engine.sample(command.sampling, position, may_end=may_end)
            if self._engine.is_end(token):
                return "stop"
            # Sent before the token is evaluated, so that the client does not wait a step longer.
            text = self._engine.text(token)
            likelihood = measure(logits, token, command.logprobs or 0, self._engine.text)
            self._pipes.send(Sampled(command.request, token, text, likelihood))
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


def load(pipes: Pipes, command: Load) -> Child | None:
    """Check the model's header, load the model and report it; None if it cannot be used."""
    path = Path(os.fsdecode(command.path))
    try:
        with open_model(path) as file:
            engine, vocabulary = open_weights(
                file, command, lambda done, total: pipes.send(Read(done, total))
            )
            pipes.send(protocol.Loaded(engine.context_length))
            return Child(pipes, engine, Prompts(engine, vocabulary), command.batch_tokens)
    except UnusableModelError as error:
        pipes.send(protocol.LoadFailed(str(error)))
    except (RuntimeError, OSError, ValueError) as error:
        why = " ".join(str(error).split())
        pipes.send(protocol.LoadFailed(f"the engine failed to load {readable(path)}: {why}"))
    return None


def main() -> None:
    """Serve the node on the pipe whose number is the argument, until the node is gone."""
    # The node decides when the child ends: a signal to the whole group must not interrupt its
    # drain.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipes = Pipes(int(sys.argv[1]))
    try:
        command = pipes.receive()
        if isinstance(command, Load) and (child := load(pipes, command)):
            child.serve()
    except (EOFError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
