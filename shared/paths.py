"""How the path of a file is shown to people: names need be neither UTF-8 nor printable."""

import os
from pathlib import Path


def readable(path: str | bytes | Path) -> str:
    r"""Return a path as text that any log, JSON document or metric can hold.

    Bytes that are not UTF-8 and characters that are not printable are written as escapes, such as
    `\xff` and `\n`.
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
