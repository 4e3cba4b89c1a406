"""Makes label values presentable: printable and of bounded length."""

import re
from typing import Final

LABEL_CHARACTERS: Final = 128
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean_label(value: str, most_characters: int = LABEL_CHARACTERS) -> str:
    """Make a label value presentable: printable and of bounded length."""
    if value.isprintable() and len(value) <= most_characters:  # the usual case, and faster
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value[:most_characters])
