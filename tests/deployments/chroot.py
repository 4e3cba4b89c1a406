"""A clean Debian 12 to try things in: debootstrap, layers over it, and a way out to install."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
CERTIFICATES: Final = "/etc/ssl/certs"


def bootstrap(base: Path) -> None:
    """Make a clean Debian with Python in a directory."""
    began = time.monotonic()
    include = f"--include={PACKAGES}"
    run("debootstrap", "--variant=minbase", include, SUITE, str(base), _mirror())
    print(
        f"debootstrap {SUITE}: {megabytes(base)} MB, {time.monotonic() - began:.0f} s", flush=True
    )


@contextlib.contextmanager
def lay_over(base: Path, directory: Path) -> Iterator[Path]:
    """Lay an empty layer over the base."""
    parts = {name: directory / name for name in ("upper", "work", "root")}
    for part in parts.values():
        part.mkdir(parents=True)
    options = f"lowerdir={base},upperdir={parts['upper']},workdir={parts['work']}"
    with mounted("-t", "overlay", "-o", options, "overlay", str(parts["root"])):
        yield parts["root"]


@contextlib.contextmanager
def reach_out(root: Path) -> Iterator[None]:
    """Let a stage reach what this machine reaches, with its certificates and resolver."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    with (
        mounted("--bind", CERTIFICATES, f"{root}{CERTIFICATES}"),
        mounted("-t", "proc", "proc", f"{root}/proc"),
        mounted("--bind", "/dev", f"{root}/dev"),
    ):
        yield


@contextlib.contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """Mount, and unmount when the block ends."""
    run("mount", *arguments)
    try:
        yield
    finally:
        run("umount", "--lazy", arguments[-1])


def pip_variables() -> dict[str, str]:
    """Give what this machine tells pip by the environment, files that a chroot lacks aside."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") and name != "PIP_FIND_LINKS"
    }


def _mirror() -> str:
    """Give the mirror of Debian that this machine uses."""
    lists = Path("/etc/apt")
    written = [*lists.glob("sources.list"), *lists.glob("sources.list.d/*.sources")]
    written += lists.glob("sources.list.d/*.list")
    pattern = re.compile(r"^[^#\n]*?(https?://\S+/debian)\b(?!-)", re.MULTILINE)
    found = [pattern.search(file.read_text()) for file in written]
    return next(match[1] for match in found if match)


def megabytes(path: Path) -> int:
    """Measure what is in a directory, without other file systems."""
    done = subprocess.run(["du", "-sxm", str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def run(*command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end, or end with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
