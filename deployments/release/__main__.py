"""Write what a release consists of to `dist/`: `just release`, `just release sha256:…`.

Wheel, source distribution, bills of materials, the images where the base's digest is given, and the
checksums of all these files.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from deployments.release.pins import ROOT, version
from deployments.release.sbom import write_sboms

DIST: Final = ROOT / "dist"
IMAGES: Final = ("distributed-llm-node", "distributed-llm-exporter")


def build(directory: Path, moment: str) -> None:
    """Build wheel and source distribution with the pinned build system.

    Args:
        directory: Receives the two files.
        moment: Unix time of the files in the wheel, so that a commit always gives the same wheel.
    """
    command = [
        *("uv", "build", "--quiet", "--out-dir", str(directory)),
        *("--build-constraints", "requirements/build.txt", "--require-hashes"),
    ]
    told = os.environ | {"SOURCE_DATE_EPOCH": moment}
    subprocess.run(command, cwd=ROOT, env=told, check=True)
    (directory / ".gitignore").unlink(missing_ok=True)  # uv writes one


def save_images(directory: Path, digest: str) -> None:
    """Build both images on a base and save them as archives that `docker load` takes."""
    subprocess.run(["just", "images", digest], cwd=ROOT, check=True)
    engine = shutil.which("docker") or shutil.which("podman") or "docker"
    for image in IMAGES:
        archive = directory / f"{image}-{version()}.tar"
        subprocess.run([engine, "save", "-o", str(archive), f"{image}:{version()}"], check=True)


def write_checksums(directory: Path) -> None:
    """Write the file that `sha256sum --check` takes."""
    lines = []
    for file in sorted(directory.iterdir()):
        with file.open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {file.name}\n")
    (directory / "SHA256SUMS").write_text("".join(lines))


def main(digest: str) -> int:
    """Make the release of the current commit; return the exit code."""
    if _git("status", "--porcelain"):
        sys.stderr.write("release: the working tree has changes; commit them first\n")
        return 1
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    build(DIST, _git("log", "-1", "--format=%ct"))
    write_sboms(DIST)
    if digest:
        save_images(DIST, digest)
    else:
        print("without images; for them, add the digest of the base: just release sha256:…")
    write_checksums(DIST)
    print("\n".join(f"dist/{file.name}" for file in sorted(DIST.iterdir())))
    return 0


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [""]))
