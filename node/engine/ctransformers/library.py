"""Drives a model through ctransformers, token by token."""

import ctypes
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from node.engine.ctransformers.binding import LLM, Config
from node.engine.ctransformers.tokens import Tokenizer
from node.engine.vocabulary import Vocabulary
from node.requests.request import Sampling

_CPU: Final = Path("/proc/cpuinfo")
_PENALTY_WINDOW: Final = 64
_SUM_BLOCK: Final = 32
"""Positions that the library's attention sums as a block; it adds the rest of a sum one by one."""
_SPACE_BYTES: Final = len("\N{LOWER ONE EIGHTH BLOCK}".encode())


class CTransformersEngine:
    """One model in memory with its one sequence of evaluated tokens.

    Args:
        path: A GGUF file that `node.engine.describe` found usable.
        context_length: Positions to keep.
        threads: Threads that evaluate. They spin, so more threads than free cores are ruinous.
        vocabulary: The file's tokens.

    Raises:
        RuntimeError: The library cannot load the file.
    """

    def __init__(
        self, path: str, context_length: int, threads: int, vocabulary: Vocabulary
    ) -> None:
        config = Config(context_length=context_length, threads=threads)
        self._llm = LLM(path, "gguf", config=config, lib=_build())
        self._tokenizer = Tokenizer(vocabulary, self._tokenize_text)
        self._ends = vocabulary.ends
        self._defined = {number: text.encode() for text, number in vocabulary.defined.items()}

    @property
    def context_length(self) -> int:
        """The number of positions in the sequence."""
        return int(self._llm.context_length)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens that the model knows."""
        return int(self._llm.vocab_size)

    def tokenize(self, text: str, *, control_tokens: bool) -> list[int]:
        """Return the tokens of a prompt; only a template's text may name control tokens.

        The first is the token that begins a text, if the model wants one.
        """
        return self._tokenizer.tokenize(text, control_tokens=control_tokens)

    def rewind(self, tokens: Sequence[int]) -> list[int]:
        """Keep what `tokens` shares with the evaluated sequence; return the rest to evaluate."""
        return list(self._llm.prepare_inputs_for_generation(tokens, reset=True))

    @staticmethod
    def chunk_end(position: int, total: int, most: int) -> int:
        """Return where the chunk from a position must end, so that chunks do not affect results.

        The library sums a position's attention in blocks, over all positions that the sequence has
        after the evaluation. A chunk that completes a block gives its positions other rounding
        errors than tokens evaluated one by one, which may change a token drawn from nearly equal
        ones. Each block's last position is therefore evaluated alone. A text then has the same
        result whether it was a prompt, was cached, or was drawn.

        Args:
            position: The first position to evaluate.
            total: Positions to evaluate in all.
            most: Limit of positions to evaluate at once.
        """
        block_end = position - position % _SUM_BLOCK + _SUM_BLOCK
        return min(max(block_end - 1, position + 1), position + most, total)

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence.

        Raises:
            RuntimeError: The library failed.
        """
        self._llm.eval(tokens, batch_size=max(1, len(tokens)))

    def sample(self, sampling: Sampling, position: int, *, may_end: bool = True) -> int:
        """Draw the next token; deterministic for the same sequence, settings, seed and position.

        Args:
            sampling: How to draw it.
            position: Its position.
            may_end: Whether a token that ends the text may be drawn.
        """
        if not may_end:
            self._exclude(self._ends)
        greedy = sampling.temperature <= 0
        return int(
            self._llm.sample(
                top_k=1 if greedy else sampling.top_k,
                top_p=sampling.top_p,
                temperature=sampling.temperature,
                repetition_penalty=sampling.repetition_penalty,
                last_n_tokens=_PENALTY_WINDOW,
                seed=_mix(sampling.seed, position),
            )
        )

    def logits(self) -> list[float]:
        """Return the logit of each token after the evaluated ones."""
        return list(self._llm.ctransformers_llm_logits_data()[: self.vocabulary_size])

    def _exclude(self, tokens: Collection[int]) -> None:
        """Make tokens impossible until the next evaluation."""
        logits = self._llm.ctransformers_llm_logits_data()
        for token in tokens:
            logits[token] = -math.inf

    def vector(self) -> tuple[float, ...]:
        """Return the model's hidden state for the last evaluated token, scaled to length 1."""
        state = self._llm.embeddings
        length = math.hypot(*state) or 1.0
        return tuple(value / length for value in state)

    def is_end(self, token: int) -> bool:
        """Return whether the token ends the text, or the assistant's turn in it."""
        return token in self._ends

    def text(self, token: int) -> bytes:
        """Return the bytes for which the token stands."""
        if token in self._defined:  # the library has no bytes for these
            return self._defined[token]
        return bytes(self._llm.detokenize([token], decode=False))

    def _tokenize_text(self, text: str) -> list[int]:
        # The library's own tokenize() allocates one token per character. Text outside the
        # vocabulary needs one per byte, and then the library writes past the end of its buffer. A
        # space becomes a three-byte mark and one is added in front of the text; this is the worst
        # case.
        encoded = text.encode()
        room = len(encoded) + (_SPACE_BYTES - 1) * encoded.count(b" ") + _SPACE_BYTES + 1
        buffer = (ctypes.c_int * room)()
        count = self._llm.ctransformers_llm_tokenize(encoded, False, buffer)
        return list(buffer[:count])


def _build() -> str | None:
    """Choose among the library's builds as the library does, which takes it a second.

    The library starts a Python program that measures the processor. The kernel already knows.
    """
    try:
        told = _CPU.read_text()
    except OSError:  # not Linux: the library's own way
        return None
    flags = set(told.partition("\nflags")[2].partition("\n")[0].split())
    if "avx2" in flags:
        return "avx2"
    return "avx" if {"avx", "f16c"} <= flags else "basic"


def _mix(seed: int, position: int) -> int:
    """Mix a seed and a position into their own draw (the finaliser of SplitMix64, Steele 2014)."""
    mixed = (seed + (position + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) & 0x7FFFFFFF  # the library takes a positive C int
