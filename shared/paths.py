"""How file paths are shown to people: names may be neither UTF-8 nor printable."""

import os
from pathlib import Path


def readable(path: str | bytes | Path) -> str:
    r"""Return a path as text that is safe in any log, JSON document or metric.

    Bytes that are not UTF-8 and characters that are not printable become escapes, such as `\xff`
    and `\n`.
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
