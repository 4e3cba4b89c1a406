"""Reads a chat's answer: thoughts at its beginning, and calls of tools in any known format.

A call is shown when it is complete, so that its arguments are always JSON. Text that only looks
like a call is words.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from node.api.parts import harmony
from node.api.parts.bodies import (
    Body,
    Texts,
    read_deepseek,
    read_hermes,
    read_mistral,
    read_objects,
)
from node.api.parts.json_marks import MarkFinder
from node.api.parts.part import CallNumbers
from node.requests.parts import Part, Thought, Words
from node.requests.text import overlap


@dataclass(frozen=True)
class _Block:
    opener: str
    closer: str
    """Empty if the block ends with the answer."""
    read: Callable[[str], Body | None] | None = None
    """None for thoughts."""


_THOUGHTS: Final = (_Block("<think>", "</think>"), _Block("[THINK]", "[/THINK]"))
_TAGGED: Final = "<function="
"""How the inside of a block begins that is not JSON, but Qwen 3 Coder's tags around raw texts."""
_BARE: Final = _Block("", "", read_objects)
"""Llama 3 writes a call as an object and nothing else."""
_IS_BARE: Final = re.compile(r'\{\s*"(?:name|type)"\s*:')
_MAY_BE_BARE: Final = re.compile(r'\{\s{0,20}("(n|na|nam|name"?|t|ty|typ|type"?)?\s{0,20})?')


class ChatReader:
    """Reads one answer.

    Args:
        calls: Whether the answer may call tools.
        parallel: Whether it may call more than one.
        texts: The parameters that are texts.
        thinks: Whether the prompt has already opened the thoughts.
    """

    def __init__(
        self,
        *,
        calls: bool,
        parallel: bool = True,
        texts: Texts = frozenset(),
        thinks: bool = False,
    ) -> None:
        self._numbers = CallNumbers(math.inf if parallel else 1)
        self._call_blocks = _call_blocks(texts) if calls else ()
        self._held = ""
        self._block = _THOUGHTS[0]
        self._ends = MarkFinder([_THOUGHTS[0].closer])
        """Finds the end of a block of calls."""
        self._space = ""
        """The white space in front of the block."""
        self._trims = thinks
        """Whether white space comes next that is not part of the answer."""
        self._harmony = harmony.HarmonyReader(self._numbers)
        self._step = self._in_block if thinks else self._begin
        self._only_words = False
        """Whether nothing else can come, so that text need not be searched."""

    def feed(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        if self._only_words:
            return _words(text)
        self._held += text
        return list(self._read(is_end=False))

    def finish(self) -> list[Part]:
        """Return the rest at the answer's end."""
        return [*self._read(is_end=True), *self._harmony.finish()]

    def _read(self, *, is_end: bool) -> Iterator[Part]:
        while self._held:
            before = self._step, self._held
            if self._trims:
                self._held = self._held.lstrip()
                self._trims = not self._held
            yield from self._step(is_end)
            if before == (self._step, self._held):
                return

    def _begin(self, is_end: bool) -> Iterator[Part]:  # noqa: FBT001
        """Find out how the answer begins."""
        text = self._held.lstrip()
        openers = [*harmony.OPENERS, *(block.opener for block in _THOUGHTS)]
        if text.startswith(harmony.OPENERS):
            self._step = self._relay
        elif thought := next((b for b in _THOUGHTS if text.startswith(b.opener)), None):
            self._enter(thought, text.removeprefix(thought.opener))
        elif self._call_blocks and _IS_BARE.match(text):
            self._enter(_BARE, text)
        elif is_end or not (_may_be(text, openers) or self._may_be_bare(text)):
            self._step = self._speak
        yield from ()

    def _may_be_bare(self, text: str) -> bool:
        return bool(self._call_blocks and _MAY_BE_BARE.fullmatch(text))

    def _speak(self, is_end: bool) -> Iterator[Part]:  # noqa: FBT001
        """Read words up to the next call."""
        text, blocks = self._held, self._call_blocks
        self._only_words = not blocks
        found = [(at, block) for block in blocks if (at := text.find(block.opener)) >= 0]
        if found:
            at, block = min(found, key=lambda one: one[0])
            words = text[:at].rstrip()
            self._enter(block, text[at + len(block.opener) :], space=text[len(words) : at])
            yield from _words(words)
            return
        kept = "" if is_end else text[len(text) - _longest(text, blocks) :]
        certain = text.removesuffix(kept) if kept else text
        if blocks and not is_end:  # white space in front of a call is not part of the words
            certain = certain.rstrip()
        self._held = text[len(certain) :]
        yield from _words(certain)

    def _enter(self, block: _Block, rest: str, space: str = "") -> None:
        self._block, self._held, self._space = block, rest, space
        self._step = self._in_block
        self._trims = block.read is None
        self._ends = MarkFinder([block.closer])

    def _in_block(self, is_end: bool) -> Iterator[Part]:  # noqa: FBT001
        block, text = self._block, self._held
        body, closer, rest = self._split(is_end=is_end)
        if block.read is None and not (closer or is_end):
            certain = text[: len(text) - overlap(text, block.closer)].rstrip()
            self._held = text[len(certain) :]
            yield from [Thought(certain)] if certain else []
        elif closer or is_end:
            self._held = closer + rest if closer == block.opener else rest
            self._step = self._begin if block.read is None else self._speak
            self._trims = True
            yield from self._close(block, body, closer)

    def _split(self, *, is_end: bool) -> tuple[str, str, str]:
        """Return the inside of a block, its end mark and the rest; no mark if it has not come.

        A mark in a text of JSON is not one, unless the block is not a call otherwise.
        """
        block, text = self._block, self._held
        if not block.closer:
            return text, "", ""
        if block.read is None or text.lstrip().startswith(_TAGGED):
            return text.partition(block.closer)
        found = self._ends.find(text)
        body = text[: found.start()] if found else text
        if (found or is_end) and block.read(body) is None:
            return text.partition(block.closer)
        return body, found[0] if found else "", text[found.end() :] if found else ""

    def _close(self, block: _Block, body: str, closer: str) -> Iterator[Part]:
        if block.read is None:
            yield from [Thought(body.rstrip())] if body.strip() else []
        elif (found := block.read(body)) is None:
            self._trims = False
            end = "" if closer == block.opener else closer
            yield from _words(self._space + block.opener + body + end)
        else:
            calls, words = found
            for name, arguments in calls:
                yield from self._numbers.whole(name, arguments)
            yield from _words(words)

    def _relay(self, is_end: bool) -> Iterator[Part]:  # noqa: FBT001
        del is_end
        text, self._held = self._held, ""
        yield from self._harmony.feed(text)


def _call_blocks(texts: Texts) -> tuple[_Block, ...]:
    return (
        _Block("<tool_call>", "</tool_call>", partial(read_hermes, texts=texts)),
        _Block("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", read_deepseek),
        _Block("[TOOL_CALLS]", "[TOOL_CALLS]", read_mistral),
        _Block("<|python_tag|>", "", read_objects),
    )


def _words(text: str) -> list[Part]:
    return [Words(text)] if text else []


def _may_be(text: str, openers: list[str]) -> bool:
    return any(opener.startswith(text) for opener in openers)


def _longest(text: str, blocks: tuple[_Block, ...]) -> int:
    """Return how many of the last characters may begin a block."""
    return max((overlap(text, block.opener) for block in blocks), default=0)
