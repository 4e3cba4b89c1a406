"""Keeps text that spells a control token from becoming one.

A prompt from a template contains the template's control tokens and the users' text, which is marked
before the template sees it. Afterwards a control token is recognized only where the template wrote
it. The marks are removed before the text is turned into tokens.

What a template does to the text (trim, upper, split, join, JSON) preserves the marks. A template
can still build a control token if it removes characters from the middle of a text, or writes both
ends of a control token around one.
"""

import re
from collections.abc import Collection, Iterator
from typing import Final

BREAK: Final = "\ufdd0"
"""After the first character of what looks like a control token."""
END: Final = "\ufdd1"
"""After the message that the answer continues."""
MARKS: Final = BREAK + END
"""Unicode reserves these code points for a program's own use, so no text should contain them."""
_NO_MARKS: Final = str.maketrans("", "", MARKS)


class Marker:
    """Marks the control tokens of one vocabulary.

    Args:
        tokens: The control tokens' texts.
    """

    def __init__(self, tokens: Collection[str] = ()) -> None:
        self._whole = either(tokens, re.IGNORECASE)  # a template may write a text in capitals
        self._heads = {token[:end] for token in tokens for end in range(1, len(token))}
        self._tails = {token[start:] for token in tokens for start in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)

    def mark(self, text: str) -> str:
        """Return the text with a mark in everything that is, begins or ends a control token."""
        text = text.translate(_NO_MARKS)
        if self._whole is None:
            return text
        breaks = sorted({*self._inside(text), *self._at_the_ends(text)})
        pieces = (text[start:end] for start, end in zip([0, *breaks], [*breaks, None], strict=True))
        return BREAK.join(pieces)

    def _inside(self, text: str) -> Iterator[int]:
        """Yield a place in each control token, also in overlapping ones."""
        found = self._whole.search(text) if self._whole else None
        while found and self._whole:
            yield found.start() + 1
            found = self._whole.search(text, found.start() + 1)

    def _at_the_ends(self, text: str) -> Iterator[int]:
        """Yield places near the ends, also after a trim, that the context could complete."""
        body = text.strip()
        first = len(text) - len(text.lstrip())
        last = first + len(body)
        for length in range(1, min(self._longest, len(body) + 1)):
            if body[:length] in self._tails:
                yield first + length - 1
            if body[-length:] in self._heads:
                yield last - length + 1


def either(tokens: Collection[str], flags: int = 0) -> re.Pattern[str] | None:
    """Return a pattern for any of the tokens; None without tokens.

    A mark inside a token hides it. A token of a single character has no inside, so a mark follows
    it.
    """
    # The longest first, so that no token hides one that begins with it.
    names = sorted(filter(None, tokens), key=len, reverse=True)
    patterns = [re.escape(name) + (f"(?!{BREAK})" if len(name) == 1 else "") for name in names]
    return re.compile(f"({'|'.join(patterns)})", flags) if patterns else None


def without_marks(text: str) -> str:
    """Return a text as its user wrote it."""
    return text.translate(_NO_MARKS)


NO_MARKER: Final = Marker()
