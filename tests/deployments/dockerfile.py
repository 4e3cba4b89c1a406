"""Reads the Dockerfiles and what may go into a build, as far as ours use the language."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "deployments" / "docker"
IMAGES: Final = ("node", "exporter")


@dataclasses.dataclass
class Stage:
    """One `FROM` with the instructions after it."""

    base: str
    name: str
    steps: list[tuple[str, str]]

    def values(self, instruction: str) -> list[str]:
        """Give what follows each instruction of a kind."""
        return [rest for name, rest in self.steps if name == instruction]

    def command(self, instruction: str) -> list[str]:
        """Give the last instruction of a kind in its exec form."""
        command: list[str] = json.loads(self.values(instruction)[-1].partition("CMD ")[2] or "null")
        return command or json.loads(self.values(instruction)[-1])

    def environment(self) -> dict[str, str]:
        """Give the variables that the stage's processes see."""
        return dict(
            pair.split("=", 1) for rest in self.values("ENV") for pair in rest.split(" ") if pair
        )


def read_stages(image: str) -> list[Stage]:
    """Read an image's Dockerfile."""
    text = (DIRECTORY / f"{image}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[Stage] = []
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stages.append(Stage(base, alias, []))
        elif stages:  # an ARG before the first FROM concerns the FROMs
            stages[-1].steps.append((name, " ".join(rest.split())))
    return stages


def context_files() -> list[Path]:
    """List the files of the repository that `.dockerignore` lets into a build, from its root."""
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    files = []
    for top in sorted(
        {pattern.lstrip("!").partition("/")[0] for pattern in patterns} - {"*", "**"}
    ):
        found = [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*")
        files += [file.relative_to(ROOT) for file in found if file.is_file()]
    return [file for file in files if not _is_ignored(file, patterns)]


def _is_ignored(file: Path, patterns: list[str]) -> bool:
    """Apply the patterns in order: the last one that matches the file or a parent decides."""
    ignored = False
    for pattern in patterns:
        bare = pattern.lstrip("!").rstrip("/")
        if any(_matches(part, bare) for part in (file, *file.parents)):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(path: Path, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return path.match(pattern.removeprefix("**/"))
    # `*` stops at a slash, so that the pattern has as many parts as what it matches.
    return len(path.parts) == pattern.count("/") + 1 and path.match(pattern)
