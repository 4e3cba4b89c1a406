"""Makes text of the bytes that tokens stand for: whole characters, and nothing past a stop."""

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Turns one answer's pieces of bytes into text that may be shown.

    Args:
        stops: Sequences that end the answer; none of them, nor the beginning of one, is shown.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Give the text that is certain now; empty while a character or a stop may go on."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """Give what is left at the answer's end."""
        rest = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that ends first, so that it does not matter how the text was cut
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Tell how many of the last characters of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
