"""The file names of a split GGUF model, as llama.cpp's `llama-gguf-split` writes them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_NAME: Final = re.compile(
    r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<ending>\.gguf)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """One file of a model that is split into several."""

    stem: str
    number: int
    """From 1."""
    count: int
    ending: str

    @classmethod
    def read(cls, name: str) -> Self | None:
        """Read a file's name; None if it is not the name of a part."""
        found = _NAME.fullmatch(name)
        if not found or not 1 <= int(found["number"]) <= int(found["count"]):
            return None
        return cls(found["stem"], int(found["number"]), int(found["count"]), found["ending"])

    @property
    def names(self) -> list[str]:
        """The names of all parts, in order."""
        numbers = range(1, self.count + 1)
        return [f"{self.stem}-{n:05}-of-{self.count:05}{self.ending}" for n in numbers]

    def missing(self, directory: Path) -> list[str]:
        """Return the names of the parts that are not in the directory."""
        return [name for name in self.names if not (directory / name).exists()]
