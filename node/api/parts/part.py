"""A whole answer out of its parts, and what reads parts in the text of one."""

import secrets
from collections.abc import Iterable
from typing import Protocol

import msgspec

from node.requests.answer import Delta
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words
from node.requests.request import Token


class Call(msgspec.Struct, frozen=True):
    """A whole call."""

    identity: str
    name: str
    arguments: str
    """JSON, unless the answer was cut off."""


class Said(msgspec.Struct, frozen=True):
    """A whole answer."""

    words: str
    thoughts: str = ""
    calls: tuple[Call, ...] = ()
    thought_tokens: int = 0
    """How many tokens the thoughts took."""
    word_tokens: tuple[Token, ...] = ()
    """The tokens of the words, if the request asked for their likelihoods."""

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended, in OpenAI's words: an answer that calls stops for that."""
        return finish_reason(reason, calls=bool(self.calls))


def finish_reason(reason: str, *, calls: bool) -> str:
    """Return why an answer ended, in OpenAI's words, with or without calls."""
    return "tool_calls" if calls and reason == "stop" else reason


def collect(parts: Iterable[Part]) -> Said:
    """Return the answer that consists of these parts."""
    words, thoughts = [], []
    begun: list[CallBegun] = []
    arguments: dict[int, str] = {}
    for part in parts:
        match part:
            case Words(text):
                words.append(text)
            case Thought(text):
                thoughts.append(text)
            case CallBegun():
                begun.append(part)
            case CallArguments(number, text):
                arguments[number] = arguments.get(number, "") + text
    calls = tuple(Call(one.identity, one.name, arguments.get(one.number, "")) for one in begun)
    return Said("".join(words), "".join(thoughts), calls)


class PartReader(Protocol):
    """Reads the text of one answer."""

    def feed(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""

    def finish(self) -> list[Part]:
        """Return the rest at the answer's end."""


class DeltaReader:
    """Reads the parts in the pieces of one answer, unless its engine has read them already.

    Args:
        reader: Reads the text of an answer that comes as the model wrote it.
    """

    def __init__(self, reader: PartReader) -> None:
        self._reader = reader
        self._is_read = False

    def feed(self, delta: Delta) -> list[Part]:
        """Return the parts that are certain now."""
        if delta.part is None:
            return self._reader.feed(delta.text)
        self._is_read = True
        return [delta.part]

    def finish(self) -> list[Part]:
        """Return the rest at the answer's end."""
        return [] if self._is_read else self._reader.finish()


class WordsReader:
    """Reads an answer that is words only."""

    def feed(self, text: str) -> list[Part]:
        """Return the text."""
        return [Words(text)] if text else []

    def finish(self) -> list[Part]:
        """Return nothing."""
        return []


class CallNumbers:
    """Numbers the calls of one answer.

    Args:
        most: Calls after this many are left out.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._number = 0

    def begin(self, name: str) -> CallBegun | None:
        """Return the beginning of the next call; None if there are enough."""
        if self._number >= self._most:
            return None
        self._number += 1
        return CallBegun(self._number - 1, name, new_identity())

    def whole(self, name: str, arguments: str) -> list[Part]:
        """Return the parts of a whole call."""
        begun = self.begin(name)
        return [] if begun is None else [begun, CallArguments(begun.number, arguments)]


def new_identity() -> str:
    """Return the id of a new call: nine letters and digits, which Mistral's templates insist on."""
    return secrets.token_hex(5)[:9]
