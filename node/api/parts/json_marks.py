"""Finds marks outside of the texts of JSON, as models write it, in a text that grows."""

import re
from collections.abc import Sequence
from typing import Final

_TEXT: Final = re.compile(r'"|\\.', re.DOTALL)
"""What matters inside of a text: its end, and escapes, one of which is that of a quotation mark."""


class MarkFinder:
    """Finds the first mark; every character is looked at once.

    Args:
        marks: What to find.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._outside = re.compile("|".join(['"', *map(re.escape, marks)]))
        self._overlap = max(map(len, marks)) - 1
        self._in_text = False
        self._at = 0

    @property
    def certain(self) -> int:
        """Up to where there is no mark, as far as the text has come."""
        return self._at

    def find(self, text: str) -> re.Match[str] | None:
        """Return the first mark; None if there is none yet.

        Args:
            text: The text of the last call, with more at its end.
        """
        while found := (_TEXT if self._in_text else self._outside).search(text, self._at):
            if found[0] == '"':
                self._in_text = not self._in_text
            elif not self._in_text:
                return found
            self._at = found.end()
        kept = text.endswith("\\") if self._in_text else self._overlap
        self._at = max(self._at, len(text) - kept)
        return None

    def drop(self, length: int) -> None:
        """Take note that the beginning of the text was removed, at most up to `certain`."""
        self._at -= length
