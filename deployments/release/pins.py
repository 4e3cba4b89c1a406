"""Read the pinned requirement sets."""

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def pinned(requirements: str) -> list[str]:
    """Return the names in a set, such as `runtime`; some have several versions, by Python's."""
    text = (ROOT / "requirements" / f"{requirements}.txt").read_text()
    return list(dict.fromkeys(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)))


def version() -> str:
    """Return the project's version, which is written in `pyproject.toml` alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])
