"""Converts the tokens' bytes to text: whole characters, and nothing past a stop sequence."""

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Assembles one answer's pieces of bytes into text that may be shown.

    Args:
        stops: Sequences that end the answer; neither they nor their beginnings are shown.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.found: str | None = None
        """The stop sequence that ended the answer."""

    def feed(self, piece: bytes, *, may_stop: bool = True) -> str:
        """Return the text that is certain now; empty while a character or a stop is incomplete.

        Args:
            piece: The next bytes.
            may_stop: Whether a stop sequence may end the answer here. Text that came before is not
                searched again.
        """
        text = self._decoder.decode(piece)
        return self._release(text) if may_stop and self._stops else text

    def finish(self) -> str:
        """Return the rest at the answer's end."""
        rest = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that ends first, so that the result does not depend on the pieces
            self.stopped = True
            self._held = ""
            _, start, self.found = min(found)
            return text[:start]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
