"""Downloads from a hub that breaks off, lies, refuses, hangs or is down."""

import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import trio
from huggingface_hub import try_to_load_from_cache

from node.demo import MODEL_PATH
from node.errors import StartupError
from node.serving.downloads import download
from node.serving.downloads.source import HubFile
from tests.hub import COMMIT, Hub, open_hub
from tests.processes import Pair, command_of, free_port, scrape, value, wait_for

FILE = HubFile("tiny/stories", "q8/tiny.gguf")
MIB = 2**20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one file, and an empty cache."""
    content = random.Random(5).randbytes(5 * MIB + 77)
    with open_hub(Hub(content)) as opened:
        for name in list(os.environ):
            if name.startswith(("HF_", "HUGGING")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", opened.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        yield opened


def fetch(file: HubFile = FILE, seconds: float = 60) -> tuple[Path, list[tuple[int, int]]]:
    """Download a file; return its path and the reported progress."""
    told: list[tuple[int, int]] = []

    async def run() -> Path:
        with trio.fail_after(seconds):
            return await download.fetch(file, lambda done, total: told.append((done, total)))

    return trio.run(run), told


def refused(file: HubFile = FILE) -> str:
    with pytest.raises(StartupError) as error:
        fetch(file)
    (line,) = str(error.value).splitlines()
    return line


def blobs(home: Path) -> Path:
    return home / "hub" / "models--tiny--stories" / "blobs"


def test_file_comes_into_the_usual_cache(hub: Hub, tmp_path: Path) -> None:
    """The file is where the hub's own client looks for it, and progress was reported."""
    path, told = fetch()
    assert path.read_bytes() == hub.content
    for revision in ("main", COMMIT):
        found = try_to_load_from_cache(
            FILE.repository, FILE.path, cache_dir=tmp_path / "hub", revision=revision
        )
        assert found == str(path)
    done = [moved for moved, _ in told]
    assert done == sorted(done)
    assert told[-1] == (len(hub.content), len(hub.content))
    assert [child.name for child in blobs(tmp_path).iterdir()] == [hub.hash]


def test_cache_may_have_any_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache whose name is not UTF-8 works like any other."""
    home = tmp_path / os.fsdecode(b"home\xff")
    monkeypatch.setenv("HF_HOME", str(home))
    path, _ = fetch()
    assert path.is_relative_to(home)
    assert path.read_bytes() == hub.content
    hub.size = 2**62
    (blobs(home) / hub.hash).unlink()
    path.unlink()
    assert "home\\xff" in refused()


def test_second_start_asks_nobody(hub: Hub) -> None:
    """A cached file is used without any request."""
    path, _ = fetch()
    asked = len(hub.asked)
    assert fetch() == (path, [])
    assert len(hub.asked) == asked


@pytest.mark.usefixtures("hub")
def test_cached_file_is_used_when_the_hub_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hub a cached file is used; a missing one is an error of one line."""
    path, _ = fetch()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == (path, [])
    assert "cannot be reached" in refused(HubFile("tiny/stories", "other.gguf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == (path, [])
    assert "HF_HUB_OFFLINE" in refused(HubFile("tiny/stories", "other.gguf"))


def test_broken_connection_goes_on_where_it_was(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """A broken download continues where it broke off, and the file is whole."""
    caplog.set_level(logging.INFO)
    hub.cuts = [2 * MIB, MIB, 0]
    path, _ = fetch()
    assert path.read_bytes() == hub.content
    asked_for = [asked.headers["range"] for asked in hub.of_storage()]
    assert asked_for == ["bytes=0-", *[f"bytes={n * MIB}-" for n in (2, 3, 3)]]
    assert f"broke at {2 * MIB} of {len(hub.content)} bytes" in caplog.text


def test_killed_download_goes_on_at_the_next_start(hub: Hub, tmp_path: Path) -> None:
    """A download killed with -9 continues at the next start."""
    hub.hold = threading.Event()
    hub.cuts = [3 * MIB]
    incomplete = blobs(tmp_path) / f"{hub.hash}.incomplete"
    command = [sys.executable, "-m", "node.serving.downloads.fetch", str(FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_for(lambda: incomplete.exists() and incomplete.stat().st_size >= 2 * MIB)
        process.kill()
    hub.hold.set()
    kept = incomplete.stat().st_size
    path, told = fetch()
    assert path.read_bytes() == hub.content
    assert hub.of_storage()[-1].headers["range"] == f"bytes={kept}-"
    assert told[0][0] == kept
    assert not incomplete.exists()


def test_download_that_hangs_is_ended_at_once(hub: Hub) -> None:
    """A hanging download is cancelled at once and leaves no process behind."""
    hub.hold = threading.Event()
    hub.cuts = [0]

    async def run() -> None:
        with trio.fail_after(30) as limit, trio.CancelScope() as scope:

            def leave(_done: int, _total: int) -> None:
                limit.deadline = trio.current_time() + 5
                scope.cancel()

            await download.fetch(FILE, leave)

    trio.run(run)
    commands = [command_of(child) for child in psutil.Process().children()]
    assert not [command for command in commands if "node.serving.downloads.fetch" in command]
    hub.hold.set()


def test_server_without_ranges_sends_it_anew(hub: Hub) -> None:
    """If the server ignores ranges, the download starts over."""
    hub.ranges = False
    hub.cuts = [2 * MIB]
    path, _ = fetch()
    assert path.read_bytes() == hub.content


@pytest.mark.parametrize(
    "change",
    [
        "altered",
        pytest.param("longer", marks=pytest.mark.slow),
        pytest.param("shorter", marks=pytest.mark.slow),
    ],
)
def test_wrong_bytes_are_refused_and_not_kept(hub: Hub, tmp_path: Path, change: str) -> None:
    """A file with the wrong hash is never used; the right one is afterwards."""
    right = hub.content
    hub.sent = {
        "altered": right[:MIB] + bytes([right[MIB] ^ 1]) + right[MIB + 1 :],
        "longer": right[:-1] + b"\0" + right,
        "shorter": right[:-1] + bytes([right[-1] ^ 1]),
    }[change]
    assert "SHA-256" in refused()
    assert list(blobs(tmp_path).iterdir()) == []
    assert not list(tmp_path.rglob("*.gguf"))
    hub.sent = None
    assert fetch()[0].read_bytes() == right


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((401, "RepoNotFound"), "private"),
        pytest.param((404, "RepoNotFound"), "no 127.0.0.1:", marks=pytest.mark.slow),
        ((404, "EntryNotFound"), "no file 'q8/tiny.gguf'"),
        pytest.param((404, "RevisionNotFound"), "no revision 'main'", marks=pytest.mark.slow),
        ((403, "GatedRepo"), "gated: accept its terms"),
        pytest.param((403, ""), "HF_TOKEN", marks=pytest.mark.slow),
        ((401, "Whatever"), "HF_TOKEN"),
        ((500, ""), "answered 500"),
        pytest.param((418, ""), "answered 418", marks=pytest.mark.slow),
    ],
)
def test_refusal_is_one_line_with_its_remedy(hub: Hub, refusal: tuple[int, str], says: str) -> None:
    """Each refusal of the hub is one line with its remedy."""
    hub.refusal = refusal
    assert says in refused()


def test_hub_that_is_none_is_one_line(hub: Hub) -> None:
    """A server that sends no hash or no commit is refused."""
    hub.etag = "abc"
    assert "no size and SHA-256" in refused()
    hub.etag = None
    hub.extra = {"X-Repo-Commit": ""}
    assert "is not a hub" in refused()


@pytest.mark.slow
def test_connection_that_does_not_come_back_is_one_line(hub: Hub, tmp_path: Path) -> None:
    """A download ends after several breaks without any data, and keeps the partial file."""
    hub.cuts = [MIB, *[0] * 20]
    assert "restart to resume" in refused()
    assert (blobs(tmp_path) / f"{hub.hash}.incomplete").stat().st_size == MIB


def test_full_disk_is_said_before_the_download(hub: Hub) -> None:
    """A file larger than the free space is refused before the download."""
    hub.size = 2**60
    assert "no room in" in refused()
    assert not hub.of_storage()


@pytest.mark.usefixtures("hub")
def test_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unwritable cache is reported with the variable that moves it."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HF_HOME", str(file))
    assert "HF_HOME" in refused()


def test_token_goes_to_the_hub_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The token is sent to the hub only, and neither it nor a signature is logged."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    hub.cuts = [MIB]
    fetch()
    sent = {asked.headers.get("authorization") for asked in hub.of_storage()}
    assert sent == {None}
    given = {a.headers.get("authorization") for a in hub.asked if a not in hub.of_storage()}
    assert given == {"Bearer hf_0123456789"}
    assert "hf_0123456789" not in caplog.text
    assert "s3cret" not in caplog.text


def test_other_protocol_is_not_used_even_where_it_is_offered(hub: Hub) -> None:
    """Xet, which cannot continue a download after a kill, is never requested."""
    hub.extra = {
        "X-Xet-Hash": "f" * 64,
        "Link": f'<{hub.url}/api/models/tiny/stories/xet-read-token/{COMMIT}>; rel="xet-auth"',
    }
    assert fetch()[0].read_bytes() == hub.content
    assert not [asked for asked in hub.asked if "xet" in asked.path]


def test_two_nodes_fetch_it_once(hub: Hub) -> None:
    """Two nodes download a file once: the second one waits."""
    hub.hold = threading.Event()
    hub.cuts = [MIB]
    paths: list[Path] = []
    with ThreadPoolExecutor(2) as nodes:
        for _ in range(2):
            nodes.submit(lambda: paths.append(fetch()[0]))
        wait_for(lambda: len([asked for asked in hub.asked if asked.method == "HEAD"]) == 2)
        hub.hold.set()
    assert len(paths) == 2
    assert paths[0] == paths[1]
    assert [asked.headers["range"] for asked in hub.of_storage()] == ["bytes=0-", f"bytes={MIB}-"]


def test_named_revision_is_the_one_that_is_asked_for(hub: Hub) -> None:
    """The revision is requested as it was written: a tag, a branch or a commit."""
    for revision in ("v1.0", "refs/pr/3", COMMIT):
        hub.asked.clear()
        path, _ = fetch(HubFile(FILE.repository, FILE.path, revision))
        assert path.read_bytes() == hub.content
        if revision != COMMIT:
            assert f"/resolve/{revision.replace('/', '%2F')}/" in hub.asked[0].path
            again, _ = fetch(HubFile(FILE.repository, FILE.path, revision))
            assert again == path
    assert not hub.asked  # the commit was in the cache by then


def test_process_ends_with_its_node(hub: Hub) -> None:
    """A download ends with its node."""
    hub.hold = threading.Event()
    hub.cuts = [MIB]
    program = (
        "import sys, trio\n"
        "from node.serving.downloads.download import fetch\n"
        "from node.serving.downloads.source import parse_source\n"
        "trio.run(fetch, parse_source(sys.argv[1]), lambda *_: None)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(FILE)]) as node:
        wait_for(hub.of_storage)
        (download,) = psutil.Process(node.pid).children()
        node.kill()
        download.wait(timeout=10)
    hub.hold.set()


@pytest.mark.slow
def test_node_serves_a_model_of_the_hub(hub: Hub, pair: Pair) -> None:
    """A node downloads its model, shows the progress, serves it, and later needs no hub."""
    hub.content = MODEL_PATH.read_bytes()
    hub.cuts = [MIB]
    flag = f"--model=tales=hf:{FILE.repository}/{FILE.path}"
    with pair.exporter() as exporter:
        with pair.node(flag) as node:
            assert complete(node.url, "tales").status_code == 200
            assert "retrying" in node.log.read_text()
            labels = {"model_id": "tales", "stage": "download"}
            wait_for(
                lambda: value(scrape(exporter.url), "model_load_progress_ratio", **labels) == 1
            )
        hub.refusal = (500, "")
        with pair.node(flag) as node:
            assert complete(node.url, "tales").status_code == 200


@pytest.mark.slow
def test_node_without_its_model_says_so_in_one_line(hub: Hub, pair: Pair) -> None:
    """A failed download is one line with its remedy and exit code 1."""
    hub.refusal = (404, "EntryNotFound")
    command = [
        sys.executable,
        "-m",
        "node",
        "--api-port=0",
        "--mesh-port=0",
        *pair.flags,
        f"--model={FILE}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    assert done.returncode == 1
    assert "has no file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    wrong = [*command[:-1], "--model=hf:nothing"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    assert done.returncode == 1
    assert "hf:owner/repo/file.gguf" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_node_that_fetches_answers_and_stops_at_once(hub: Hub, pair: Pair) -> None:
    """During a hanging download the API reports a loading model, and SIGTERM ends both with 0."""
    hub.hold = threading.Event()
    hub.cuts = [MIB]
    port = free_port()
    ports = [f"--api-port={port}", "--mesh-port=0"]
    command = [sys.executable, "-m", "node", *ports, *pair.flags, f"--model={FILE}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(hub.of_storage)
        health = httpx.get(f"http://127.0.0.1:{port}/health")
        assert (health.status_code, health.json()["engines"]) == (503, {"tiny": "loading"})
        (fetching,) = [
            child
            for child in psutil.Process(process.pid).children()
            if "node.serving.downloads.fetch" in command_of(child)
        ]
        process.terminate()
        assert process.wait(timeout=15) == 0
        assert not fetching.is_running()
    hub.hold.set()


def complete(url: str, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "Once", "max_tokens": 2}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=30)
