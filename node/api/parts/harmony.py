"""Reads gpt-oss's answers: messages in channels (OpenAI's Harmony response format).

A message is `<|channel|>` NAME `<|message|>` TEXT and an end mark; its header may name a recipient,
as in `commentary to=functions.get_weather`.
"""

import re
from collections.abc import Iterator
from typing import Final

from node.api.parts.json_marks import MarkFinder
from node.api.parts.part import CallNumbers
from node.requests.parts import CallArguments, Part, Thought, Words
from node.requests.text import overlap

OPENERS: Final = ("<|channel|>", "<|start|>")
"""How an answer in this format begins."""
_MESSAGE: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", *OPENERS)
_RECIPIENT: Final = re.compile(r"\bto=functions\.([\w.:-]+)")
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")


class HarmonyReader:
    """Reads one answer, message by message; arguments of calls are passed on as they come.

    Args:
        numbers: Numbers the answer's calls.
    """

    def __init__(self, numbers: CallNumbers) -> None:
        self._numbers = numbers
        self._held = ""
        self._in_header = True
        self._is_thought = False
        self._call: int | None = None
        self._arguments: MarkFinder | None = None
        """Finds the end of a message that is a call's arguments."""
        self._is_empty = True
        """Whether this message has no text yet."""
        self._is_left_out = False
        """Whether this message is a call too many."""

    def feed(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        self._held += text
        return list(self._read())

    def finish(self) -> list[Part]:
        """Return the rest at the answer's end; a header without a message is nothing."""
        return [] if self._in_header else [*self._said(self._held), *self._end()]

    def _read(self) -> Iterator[Part]:
        while self._held:
            if self._in_header:
                header, mark, rest = self._held.partition(_MESSAGE)
                if not mark:
                    return
                self._held = rest
                yield from self._begin(header)
                continue
            end, is_end = self._find_end()
            yield from self._said(self._held[:end])
            self._held = self._held[end:]
            if not is_end:
                return
            yield from self._end()
            self._in_header = True

    def _find_end(self) -> tuple[int, bool]:
        """Return where the message ends; while it does not, up to where its text is certain."""
        if self._arguments is not None:
            if found := self._arguments.find(self._held):
                return found.start(), True
            certain = self._arguments.certain
            self._arguments.drop(certain)
            return certain, False
        ends = [at for end in _ENDS if (at := self._held.find(end)) >= 0]
        kept = max(overlap(self._held, end) for end in _ENDS)
        return (min(ends), True) if ends else (len(self._held) - kept, False)

    def _begin(self, header: str) -> Iterator[Part]:
        self._in_header = False
        self._is_empty = True
        self._call = None
        channels = _CHANNEL.findall(header)
        recipient = _RECIPIENT.search(header)
        self._arguments = MarkFinder(_ENDS) if recipient else None
        self._is_thought = recipient is None and channels[-1:] == ["analysis"]
        begun = self._numbers.begin(recipient[1]) if recipient else None
        self._is_left_out = recipient is not None and begun is None
        if begun is not None:
            self._call = begun.number
            yield begun

    def _said(self, text: str) -> Iterator[Part]:
        if not text or self._is_left_out:
            return
        self._is_empty = False
        if self._call is not None:
            yield CallArguments(self._call, text)
        elif self._is_thought:
            yield Thought(text)
        else:
            yield Words(text)

    def _end(self) -> Iterator[Part]:
        """End a message: a call without arguments still has an object of them."""
        if self._call is not None and self._is_empty:
            yield CallArguments(self._call, "{}")
