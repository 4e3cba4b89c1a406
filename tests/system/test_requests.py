"""`requests` and the request log of a real exporter."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from exporter.tools.requests import RequestsSettings, requests
from shared.events.requests import InferenceFinished
from tests.batches import Emitter
from tests.builders import finished, forwarded
from tests.processes import Pair, scrape, value, wait_for

EXPORTER = [sys.executable, "-m", "exporter"]


def ended(request_id: str, **changed: object) -> InferenceFinished:
    told = {"request_id": request_id, "ended_at": 1.7e9, "route": "/v1/completions"} | changed
    return msgspec.structs.replace(finished(), **told)


Show = Callable[..., list[str]]


@pytest.fixture
def show(log: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Return the command, called in this process on a log that an exporter wrote."""

    def lines(*arguments: str) -> list[str]:
        requests(RequestsSettings.read("requests", [f"--request-log={log}", *arguments], ""))
        return capsys.readouterr().out.splitlines()

    return lines


def ids(lines: list[str]) -> list[str]:
    return [json.loads(line)["request_id"] for line in lines]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log that an exporter wrote."""
    directory = tmp_path_factory.mktemp("log")
    path, pair = directory / "requests.log", Pair(directory)
    with pair.exporter(f"--request-log={path}") as exporter:
        node = Emitter(pair.directory)
        node.send(
            ended("one"),
            ended("slow", seconds=20.0),
            ended("failed", status="error", reason="engine", code="engine_failed"),
            ended("other", model_id="n", route="distributed_llm.v1.Inference/Generate"),
            msgspec.structs.replace(forwarded(), request_id="abroad", ended_at=1.7e9),
        )
        wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") == 5)
        written = "exporter_request_log_lines_total"
        wait_for(lambda: value(scrape(exporter.url), written) == 5)
        node.close()
    return path


def test_requests_are_filtered(show: Show) -> None:
    """Each filter shows the requests that pass it."""
    assert ids(show("--json")) == ["one", "slow", "failed", "other", "abroad"]
    assert ids(show("--json", "--model=n")) == ["other"]
    assert ids(show("--json", "--status=error")) == ["failed"]
    assert ids(show("--json", "--route=distributed_llm.v1.Inference/Generate")) == ["other"]
    assert ids(show("--json", "--slow=10")) == ["slow"]
    assert ids(show("--json", "--request=abroad")) == ["abroad"]
    assert ids(show("--json", "--since=1h")) == []
    assert len(show("--json", "--since=99999d")) == 5


def test_request_is_one_line_for_people(show: Show) -> None:
    """A failed request shows its reason, a forwarded one its peer."""
    shown = show()
    assert len(shown) == 5
    assert "error" in shown[2]
    assert "reason=engine code=engine_failed" in shown[2]
    assert "forwarded_to=n2" in shown[4]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "name the exporter's with --request-log"),
        (["--request-log=x", "--since=soon"], 2, "10m"),
        (["--request-log=/proc/self/mem"], 1, "cannot be read"),
    ],
)
def test_wrong_use_is_one_line(flags: list[str], code: int, said: str) -> None:
    """A mistake gives one line and its exit code."""
    told = subprocess.run(
        [*EXPORTER, "requests", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (code, "", 1)
    assert said in told.stderr


def test_new_requests_follow(tmp_path: Path) -> None:
    """With `--follow`, requests show as they end, until the command is stopped."""
    path, pair = tmp_path / "requests.log", Pair(tmp_path)
    with pair.exporter(f"--request-log={path}"):
        command = [*EXPORTER, "requests", "--follow", "--json", f"--request-log={path}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                assert "following" in process.stderr.readline()
                node = Emitter(pair.directory)
                for request_id in ("first", "second"):
                    node.send(ended(request_id))
                    assert json.loads(process.stdout.readline())["request_id"] == request_id
                node.close()
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()


def test_broken_log_is_in_nobodys_way(tmp_path: Path) -> None:
    """Without a disk for the log, every request counts, and the lines left out are counted."""
    pair = Pair(tmp_path)
    with pair.exporter("--request-log=/dev/full") as exporter:
        node = Emitter(pair.directory)
        node.send(ended("one"))
        node.send(ended("two"))
        dropped = "exporter_request_log_dropped_total"
        wait_for(lambda: value(scrape(exporter.url), dropped, reason="failed") == 2)
        assert value(scrape(exporter.url), "inference_requests_total", status="ok") == 2
        node.close()
        assert exporter.log.read_text().count("requests are left out") == 1


def test_log_on_standard_output(tmp_path: Path) -> None:
    """`-` writes the lines to standard output, which holds nothing else."""
    pair = Pair(tmp_path)
    with pair.exporter("--request-log=-") as exporter:
        node = Emitter(pair.directory)
        node.send(ended("one"))
        assert exporter.process.stdout is not None
        assert json.loads(exporter.process.stdout.readline())["request_id"] == "one"
        node.close()
