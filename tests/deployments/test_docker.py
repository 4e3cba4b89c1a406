"""The images: their files, their user, and that the exporter's holds all that it imports."""

import contextlib
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.settings import ExporterSettings
from node.settings import NodeSettings
from shared.settings.base import Settings
from shared.settings.declaration import declarations
from tests.deployments.dockerfile import DIRECTORY, IMAGES, ROOT, context_files, read_stages
from tests.processes import Pair, scrape, value, wait_for

SETTINGS: dict[str, type[Settings]] = {"node": NodeSettings, "exporter": ExporterSettings}
HEAVY = {"ctransformers", "quart", "quart-trio", "gguf", "numpy", "connectrpc", "psutil", "jinja2"}
FOR_A_TERMINAL = {"rich", "markdown-it-py", "mdurl", "pygments"}
"""What `distributed-llm-exporter top` draws with; an image has no terminal."""
VENV = Path(sys.executable).parent


def pins(name: str) -> dict[str, set[str]]:
    """Read a requirement set: each pinned release with its hashes."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if pin := re.match(r"([a-z0-9.-]+==[^ ;]+)", line):
            release = pin[1]
            found.setdefault(release, set())
        elif hashed := re.search(r"--hash=(\S+)", line):
            found[release].add(hashed[1])
    return found


def test_dockerfiles_keep_hadolints_rules() -> None:
    """Not one finding, not even a hint."""
    files = sorted(str(file) for file in DIRECTORY.glob("*.Dockerfile"))
    assert len(files) > len(IMAGES)
    done = subprocess.run(
        [VENV / "hadolint", "--failure-threshold=style", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_image_is_built_from_a_demanded_base_and_hashes(image: str) -> None:
    """Every stage begins at the base by digest, and what is installed by name has a hash."""
    stages = read_stages(image)
    assert [stage.base for stage in stages] == ["python:${PYTHON}@${PYTHON_DIGEST}"] * 2
    assert re.search(
        r"^ARG PYTHON_DIGEST$", (DIRECTORY / f"{image}.Dockerfile").read_text(), re.MULTILINE
    )
    runs = " && ".join(run for stage in stages for run in stage.values("RUN")).split(" && ")
    fetched = [run for run in runs if "pip" in run and "--requirement" in run]
    assert len(fetched) == 2
    assert all("--require-hashes" in run for run in fetched)
    local = [run for run in runs if "/pip " in run and run not in fetched]
    assert all("--no-deps" in run for run in local)


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_without_root_and_shell(image: str) -> None:
    """A numbered user, commands in exec form, and the ports of the settings."""
    last = read_stages(image)[-1]
    user, group = last.values("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    for instruction in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        command = last.command(instruction)
        assert not {"sh", "bash"} & {Path(word).name for word in command}
    flags = last.command("CMD")
    settings = SETTINGS[image].read(image, flags, "about")
    ports = {
        getattr(settings, name)
        for name in ("api_port", "mesh_port", "metrics_port")
        if hasattr(settings, name)
    }
    assert {int(port) for port in last.values("EXPOSE")[-1].split()} == ports
    asked = re.search(r":(\d+)/", last.command("HEALTHCHECK")[-1])
    assert asked
    assert int(asked[1]) in ports


def test_users_of_the_images_share_a_group_and_nothing_else() -> None:
    """The node cannot write the exporter's files, and reaches its socket."""
    (node, node_group), (exporter, exporter_group) = (
        read_stages(image)[-1].values("USER")[-1].split(":") for image in IMAGES
    )
    assert node != exporter
    assert node_group == exporter_group
    assert f"--socket-group={node_group}" in read_stages("exporter")[-1].command("CMD")


def test_cuda_image_is_the_nodes_with_another_engine() -> None:
    """The example has the node's build, user and command, on llama.cpp's image by digest."""
    build, last = read_stages("node")
    their_base, their_build, their_last = read_stages("node-cuda")
    assert their_base.base == "${LLAMA}@${LLAMA_DIGEST}"
    assert their_build.steps == build.steps
    assert their_build.base == their_last.base == their_base.name
    for instruction in ("COPY", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"):
        assert their_last.values(instruction) == last.values(instruction)
    assert their_last.command("HEALTHCHECK") == last.command("HEALTHCHECK")
    told = their_last.environment()
    assert told.items() > last.environment().items()
    ours = {name for name in told if name.startswith("DISTRIBUTED_LLM_")}
    known = declarations(NodeSettings).keys()
    assert {name.removeprefix("DISTRIBUTED_LLM_").lower() for name in ours} <= known


def test_node_images_have_what_llama_cpp_needs() -> None:
    """The library of its threads, which a slim base lacks."""
    for image, stage in (("node", -1), ("node-cuda", 0)):
        (install,) = [run for run in read_stages(image)[stage].values("RUN") if "apt-get" in run]
        assert " libgomp1 " in install


def test_context_is_what_the_images_copy() -> None:
    """Every copied name is let into the build, and nothing that no image copies."""
    copied: set[str] = set()
    for image in IMAGES:
        for rest in read_stages(image)[0].values("COPY"):
            copied |= set(rest.split()[:-1])
    files = {file.as_posix() for file in context_files()}
    for name in copied:
        assert any(file == name or file.startswith(name) for file in files), name
    assert not [file for file in files if not any(file.startswith(name) for name in copied)]
    assert "node/demo/demo.gguf" in files
    assert "deployments/demo_model/train.py" not in files


@pytest.mark.parametrize(
    ("part", "whole"), [("node", "runtime"), ("exporter", "runtime"), ("build", "dev")]
)
def test_images_get_the_releases_that_were_tested(part: str, whole: str) -> None:
    """Each set has the pins and hashes of the one that the tests run with."""
    tested = pins(whole)
    assert pins(part)
    assert all(tested.get(release) == hashes for release, hashes in pins(part).items())


def test_images_get_every_library_of_their_processes() -> None:
    """The sets of the images are together the one that is tested, but for `top`: none is stale."""
    left_out = pins("runtime").keys() - pins("node").keys() - pins("exporter").keys()
    assert {release.partition("==")[0] for release in left_out} == FOR_A_TERMINAL


def test_exporters_set_is_without_engine_and_web_framework() -> None:
    """What makes the image small: none of the node's libraries."""
    names = {release.partition("==")[0] for release in pins("exporter")}
    assert "prometheus-client" in names
    assert not names & HEAVY
    assert "prometheus-client" not in {release.partition("==")[0] for release in pins("node")}


@pytest.fixture(scope="module")
def exporters_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the exporter's set and the exporter's packages, as its image has."""
    if not (uv := shutil.which("uv")):
        pytest.skip("uv is not here")
    directory = tmp_path_factory.mktemp("exporter-image")
    for file in context_files():
        if file.parts[0] != "node":
            (directory / "context" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, directory / "context" / file)
    requirements = ROOT / "requirements" / "exporter.txt"
    python = directory / "venv" / "bin" / "python"
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(directory / "venv")],
        [
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "--require-hashes",
            "--requirement",
            str(requirements),
        ],
        [
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "--no-deps",
            str(directory / "context"),
        ],
    ):
        subprocess.run([uv, *command], check=True, timeout=100)
    return python.parent


@pytest.mark.slow
def test_exporter_runs_with_only_its_own_set(exporters_environment: Path, pair: Pair) -> None:
    """Without engine and web framework installed it counts what a node does and shows it."""
    listed = subprocess.run(
        ["uv", "pip", "list", "--python", str(exporters_environment / "python")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ctransformers" not in listed.stdout
    command = exporters_environment / "distributed-llm-exporter"
    log = pair.directory / "exporter.log"
    port_flag = "--metrics-port=0"
    with log.open("w") as stderr:
        exporter = subprocess.Popen(
            [command, port_flag, *pair.flags], stderr=stderr, cwd=pair.directory
        )
    try:
        found = wait_for(lambda: re.search(r"metrics on (\S+)/metrics", log.read_text()))
        with pair.node():
            up = lambda: value(scrape(found[1]), "node_up", node_id="node1") == 1  # noqa: E731
            wait_for(up)
    finally:
        exporter.terminate()
        assert exporter.wait(timeout=30) == 0


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """Serve one status on a free port; gives the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/livez"
        finally:
            server.shutdown()
            thread.join()


def ask(url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", str(DIRECTORY / "ask.py"), url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_healthcheck_tells_200_from_the_rest() -> None:
    """200 is healthy; another status, nobody there and another host are one line and exit 1."""
    with answering(200) as url:
        assert ask(url).returncode == 0
    with answering(503) as url:
        failed = ask(url)
    closed, elsewhere = ask(url), ask("http://example.invalid/livez")
    for done, reason in ((failed, "503"), (closed, "refused"), (elsewhere, "only this container")):
        assert done.returncode == 1
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_missing_engine_is_one_line(tmp_path: Path) -> None:
    """`just images` without an engine says so, and does nothing."""
    for name in ("bash", "sed", "git"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    if not (just := shutil.which("just")):
        pytest.skip("just is not here")
    done = subprocess.run(
        [just, "images"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "neither Docker's engine nor Podman answers here" in done.stderr
