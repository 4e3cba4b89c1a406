"""Runs the Dockerfiles' steps in a clean Debian and then the images' own commands.

For machines without a Docker engine: `just check-images`, as root; with an argument it takes that
directory as the base, or makes it there. The base is a debootstrap of
Debian 12 with its Python 3.11, what `python:3.11-slim-bookworm` has too. Each stage is a layer over
it; each command of a finished image runs as its user in a root that cannot be written.
"""

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from node.engine.protocol import EngineName
from tests.deployments.chroot import (
    bootstrap,
    lay_over,
    megabytes,
    mounted,
    pip_variables,
    reach_out,
    run,
)
from tests.deployments.dockerfile import IMAGES, ROOT, Stage, context_files, read_stages
from tests.processes import wait_for


def main() -> None:
    """Build both images' file systems, measure them, run both as they would be."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("check-images needs root and Debian's debootstrap")
    with tempfile.TemporaryDirectory(prefix="images-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        base = Path(sys.argv[1]) if sys.argv[1:] else directory / "base"
        if not base.exists():
            bootstrap(base)
        with contextlib.ExitStack() as mounts:
            roots = {image: _build(image, base, directory, mounts) for image in IMAGES}
            _run_both(roots, directory)


def _build(image: str, base: Path, directory: Path, mounts: contextlib.ExitStack) -> Path:
    """Take every step of each stage; give the last stage's root."""
    context = directory / f"context-{image}"
    for file in context_files():
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, context / file)
    stages: dict[str, Path] = {}
    for stage in read_stages(image):
        took = time.monotonic()
        root = mounts.enter_context(lay_over(base, directory / f"{image}-{stage.name}"))
        stages[stage.name] = root
        with reach_out(root):
            _take_steps(stage, root, context, stages)
        print(f"{image}, stage {stage.name}: {time.monotonic() - took:.0f} s", flush=True)
    size = megabytes(root / "opt/distributed-llm")
    print(f"{image}: {size} MB over the base in /opt/distributed-llm")
    return root


def _take_steps(stage: Stage, root: Path, context: Path, stages: dict[str, Path]) -> None:
    directory, environment = "/", {"PATH": os.environ["PATH"]} | pip_variables()
    for name, rest in stage.steps:
        if name == "WORKDIR":
            directory = rest
            (root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            environment |= dict(pair.split("=", 1) for pair in rest.split(" "))
        elif name == "RUN":
            script = f"cd {directory} && {rest}"
            run("chroot", str(root), "/bin/sh", "-ec", script, environment=environment)
        elif name == "COPY":
            _copy(rest, directory, root, context, stages)


def _copy(rest: str, directory: str, root: Path, context: Path, stages: dict[str, Path]) -> None:
    source = context
    if found := re.match(r"--from=(\S+) ", rest):
        source, rest = stages[found[1]], rest[found.end() :]
    *names, target = shlex.split(rest)
    place = root / Path(directory, target).as_posix().lstrip("/")
    for name in names:
        origin = source / name.lstrip("/")
        if origin.is_dir():  # what is in it is copied, not itself
            shutil.copytree(origin, place, symlinks=True, dirs_exist_ok=True)
        elif target.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, place)
        else:
            shutil.copy(origin, place)


def _run_both(roots: dict[str, Path], directory: Path) -> None:
    """Run both images side by side, the node's once with each engine."""
    sockets = directory / "sockets"
    sockets.mkdir()
    os.chown(sockets, 10002, 10000)
    sockets.chmod(0o750)
    with contextlib.ExitStack() as running:
        inside = functools.partial(_inside, running.enter_context(_namespace()))
        for root in roots.values():
            (root / "run/distributed-llm").mkdir(exist_ok=True)
            running.enter_context(mounted("--bind", str(sockets), f"{root}/run/distributed-llm"))
            running.enter_context(mounted("-t", "proc", "proc", f"{root}/proc"))
        with _running("exporter", roots, inside):
            for engine in get_args(EngineName):
                with _running("node", roots, inside, f"--engine={engine}"):
                    print(f"node: serves the demo model with {engine}")


@contextlib.contextmanager
def _running(
    image: str, roots: dict[str, Path], inside: Callable[..., list[str]], *flags: str
) -> Iterator[None]:
    """Run an image as it says until its own HEALTHCHECK is content; stop it after the block."""
    stage = read_stages(image)[-1]
    command = [*stage.command("ENTRYPOINT"), *stage.command("CMD"), *flags]
    process = subprocess.Popen(inside(stage, roots[image], command))
    try:
        asked = inside(stage, roots[image], stage.command("HEALTHCHECK"))
        wait_for(functools.partial(_is_well, process, asked), 60)
        print(f"{image}: healthy by its own HEALTHCHECK, as {stage.values('USER')[-1]}")
        yield
        process.terminate()
        code = process.wait(timeout=60)
        print(f"{image}: SIGTERM, exit code {code}")
        assert code == 0
    finally:
        process.kill()


def _is_well(process: "subprocess.Popen[bytes]", asked: list[str]) -> bool:
    assert process.poll() is None, f"it ended with code {process.returncode}"
    return subprocess.run(asked, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _inside(namespace: str, stage: Stage, root: Path, command: list[str]) -> list[str]:
    """Write a command as the image's user runs it: without capabilities, in a root to read."""
    user, group = stage.values("USER")[-1].split(":")
    script = (
        'mount --make-rprivate / && mount --rbind "$0" "$0" && mount -o remount,bind,ro "$0" && '
        'mount -t tmpfs -o mode=0750,uid="$1",gid="$2" state "$0/var/lib/distributed-llm" && '
        'root="$0" user="$1" group="$2" && shift 2 && '
        'exec chroot "$root" setpriv --reuid="$user" --regid="$group" --clear-groups '
        '--no-new-privs --bounding-set=-all --inh-caps=-all env -i "$@"'
    )
    variables = [f"{name}={value}" for name, value in stage.environment().items()]
    entered = ["ip", "netns", "exec", namespace, "unshare", "--mount", "sh", "-ec", script]
    return [*entered, str(root), user, group, *variables, *command]


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    """Make a network of one loopback, where the images' own ports are free."""
    name = f"images-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-netns", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


if __name__ == "__main__":
    main()
