"""Reads an answer's pieces as its parts, each with the tokens that it took."""

from collections.abc import Callable, Iterable

import msgspec

from node.api.parts.part import DeltaReader, PartReader, Said, collect
from node.requests.answer import Answer, Delta
from node.requests.parts import Part, Thought, Words
from node.requests.request import Token

Read = Callable[[Answer], PartReader]
"""Returns what reads the parts of an answer."""


class Heard(msgspec.Struct, frozen=True):
    """A part of an answer."""

    part: Part
    count: int
    """How many tokens it took; 0 for a further part of the same tokens."""
    tokens: tuple[Token, ...]
    """The tokens themselves, if the request asked for their likelihoods."""


class Listener:
    """Reads one answer. A token belongs to the first part that is certain after it.

    Args:
        reader: Reads the parts in its text.
    """

    def __init__(self, reader: PartReader) -> None:
        self._reader = DeltaReader(reader)
        self._count = 0
        self._tokens: list[Token] = []
        self.thought_tokens = 0
        """Tokens of the thoughts so far."""

    def feed(self, delta: Delta) -> list[Heard]:
        """Return the parts that are certain now."""
        self._count += delta.tokens
        if delta.token is not None:
            self._tokens.append(delta.token)
        return list(map(self._hear, self._reader.feed(delta)))

    def finish(self) -> list[Heard]:
        """Return the rest at the answer's end."""
        return list(map(self._hear, self._reader.finish()))

    def rest(self) -> tuple[Token, ...]:
        """Return the tokens after the last part, once."""
        rest, self._tokens = tuple(self._tokens), []
        return rest

    def _hear(self, part: Part) -> Heard:
        heard = Heard(part, self._count, self.rest() if self._tokens else ())
        self.thought_tokens += self._count if isinstance(part, Thought) else 0
        self._count = 0
        return heard


def listen(reader: PartReader, deltas: Iterable[Delta]) -> Said:
    """Return the answer that these pieces are."""
    listener = Listener(reader)
    heard = [one for delta in deltas for one in listener.feed(delta)]
    heard += listener.finish()
    words = [token for one in heard if isinstance(one.part, Words) for token in one.tokens]
    said = collect(one.part for one in heard)
    return msgspec.structs.replace(
        said, thought_tokens=listener.thought_tokens, word_tokens=(*words, *listener.rest())
    )
