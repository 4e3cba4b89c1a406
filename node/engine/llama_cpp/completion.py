"""Writes a request as the body of llama-server's `/completion`; no I/O."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node.engine.protocol import Generate
from node.requests.request import Sampling

_FINAL_FIELDS: Final = ("content", "tokens", "stop", "stop_type", "tokens_predicted", "timings")
"""What the last event has to hold; without a choice it repeats prompt and settings."""
KEPT_TOKENS: Final = (
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>"),
    *("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|python_tag|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    *("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"),
    "<|constrain|>",
)
"""Control tokens whose text is part of an answer, because they tell its parts from each other."""
_SEEDS: Final = 2**32 - 1
"""Seeds that llama-server keeps; by the next one it draws a seed itself."""
_STRIDE: Final = 0x9E3779B1
"""An odd number, so that every start of an answer has its own seed."""


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must follow; one without text allows anything."""

    text: str = ""
    is_lazy: bool = False
    """Whether it applies only from a trigger on."""
    triggers: tuple[dict[str, Any], ...] = ()
    """In llama-server's form."""

    def __bool__(self) -> bool:
        """Return whether it forbids anything."""
        return bool(self.text)


FREE: Final = Grammar()


def completion_body(
    command: Generate,
    prompt: list[int],
    max_tokens: int,
    *,
    cached: bool,
    grammar: Grammar = FREE,
    kept: Sequence[str] = KEPT_TOKENS,
) -> bytes:
    """Return the body for `/completion` that continues a request's answer.

    Args:
        command: The request.
        prompt: Its prompt; the answer's prior tokens follow it.
        max_tokens: How many more to draw, at least 1.
        cached: Whether tokens that the slot still holds need not be evaluated again.
        grammar: What the answer must follow.
        kept: Control tokens whose text is part of the answer. The server tokenizes each of them,
            which takes milliseconds with a large vocabulary: name only those that the model has.
    """
    prior = command.prior
    body = {
        "prompt": [*prompt, *prior],
        "n_predict": max_tokens,
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
        "cache_prompt": cached,
        "response_fields": _FINAL_FIELDS,
        "ignore_eos": command.min_tokens >= len(prior) + max_tokens,
        "grammar": grammar.text,
        "grammar_lazy": grammar.is_lazy,
        "grammar_triggers": grammar.triggers,
        "preserved_tokens": kept,
        # The server draws all tokens of an answer from one sequence of random numbers; its
        # continuation must not begin that sequence again.
        "seed": (command.sampling.seed + len(prior) * _STRIDE) % _SEEDS,
        **_sampling_fields(command.sampling),
    }
    if command.logprobs is not None:
        body["n_probs"] = max(1, command.logprobs)
    return msgspec.json.encode(body)


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Return how tokens are drawn, in llama-server's names."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "typical_p": sampling.typical_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "logit_bias": sampling.logit_bias,
    }


def tokens_left(command: Generate, prompt_tokens: int, context_length: int) -> int:
    """Return how many tokens the answer may still have; 0 or less if it is complete."""
    room = context_length - prompt_tokens
    return min(command.max_tokens or room, room) - len(command.prior)
