"""How the command line names a model: a path, or `hf:owner/repo/file.gguf[@revision]`."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

PREFIX: Final = "hf:"
_HUB_FILE: Final = re.compile(
    r"hf:(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)/(?P<path>[^@\s]+\.[gG][gG][uU][fF])(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub; its text is the one that was parsed."""

    repository: str
    path: str
    revision: str = "main"

    @property
    def name(self) -> str:
        """The file's name, as in a path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The file's name without its suffix, as in a path."""
        return PurePosixPath(self.path).stem

    def __str__(self) -> str:
        """Return the text that `parse_source` reads."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{PREFIX}{self.repository}/{self.path}{revision}"


Source = Path | HubFile


def parse_source(text: str) -> Source:
    """Parse the location of a model.

    Raises:
        ValueError: It is neither a path nor a hub file; the text says what is expected.
    """
    if not text.strip():
        raise ValueError("a model is a path or hf:owner/repo/file.gguf[@revision]")
    if not text.startswith(PREFIX):
        return Path(text)
    found = _HUB_FILE.fullmatch(text)
    if not found or not _is_plain(found["path"]) or not _is_plain(found["revision"] or "main"):
        raise ValueError(f"{text!r} is not hf:owner/repo/file.gguf[@revision]")
    return HubFile(found["repository"], found["path"], found["revision"] or "main")


def _is_plain(path: str) -> bool:
    """Return whether no part leaves the directory in which the path is placed."""
    return all(part not in ("", ".", "..") for part in path.split("/"))
