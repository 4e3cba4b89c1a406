"""Clients that people use, of their own versions and languages, against one node."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.patience import patient
from tests.processes import Pair, Running
from tests.random_models import random_model
from tests.real_model import real_model

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = sorted(Path(__file__).parent.glob("with_*.py"))
JAVASCRIPT: Final = Path(__file__).parent / "javascript"
ENVIRONMENT: Final = ROOT / ".local/clients"
"""Where `just test-slow` installs the clients; those for Node are in `node_modules`."""
GUIDELLM: Final = ROOT / ".local/load-clients/bin/guidellm"
SECONDS: Final = 300.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a node with a model that anything can be asked of, an embedder, and a real model."""
    models = [
        f"tiny={random_model('qwen3')},engine=llama.cpp",
        f"embedder={random_model('embedder')},engine=llama.cpp",
        f"gemma={real_model()},engine=llama.cpp,context=2048",
    ]
    pair = Pair(tmp_path_factory.mktemp("node"))
    with pair.node(f"--model={','.join(models)}", "--slots=2") as running:
        yield running


def run(command: list[str | Path], node: Running, directory: Path) -> None:
    """Run a client's own tests, or another program; fail with its report."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment | {"NODE_URL": node.url, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=patient(SECONDS),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_client_for_python_gets_what_it_asks_for(node: Running, script: Path) -> None:
    """A client for Python reads whole and streamed answers, calls and structures."""
    python = ENVIRONMENT / "bin/python"
    if not python.exists():
        pytest.skip("the clients are not installed: run `just test-slow`")
    options = ["-q", "--tb=short", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull]
    run([python, "-m", "pytest", *options, "--rootdir", ROOT, script], node, ROOT)


@pytest.mark.parametrize("script", ["with_openai.js", "with_ai.js"])
def test_client_for_node_gets_what_it_asks_for(node: Running, script: str) -> None:
    """A client for Node reads whole and streamed answers, calls and structures."""
    if shutil.which("node") is None or not (ENVIRONMENT / "node_modules").exists():
        pytest.skip("Node's clients are not installed: install nodejs and npm, `just test-slow`")
    for source in JAVASCRIPT.glob("*.js"):  # Node looks for packages beside the script
        shutil.copy(source, ENVIRONMENT)
    run(["node", "--test", ENVIRONMENT / script], node, ENVIRONMENT)


def test_load_client_streams_answers_of_equal_length(node: Running, tmp_path: Path) -> None:
    """GuideLLM streams answers of a fixed length (`ignore_eos`), two at once, without an error."""
    if not GUIDELLM.exists():
        pytest.skip("guidellm is not installed: run `just test-slow`")
    prompts = [{"prompt": "Once upon a time", "output_tokens_count": 24}] * 4
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    columns = {
        "prompt_column": "prompt",
        "output_tokens_count_column": "output_tokens_count",
    }
    asked: dict[str, Path | str] = {
        "--target": node.url,
        "--model": "gemma",
        "--rate-type": "concurrent",
        "--rate": "2",
        "--max-requests": "4",
        "--data": tmp_path / "prompts.jsonl",
        "--data-args": json.dumps(columns),
        "--output-path": tmp_path / "report.json",
    }
    options = [word for option in asked.items() for word in option]
    run([GUIDELLM, "benchmark", "run", "--disable-progress", *options], node, tmp_path)
    (measured,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    assert not measured["requests"]["errored"]
    answers = measured["requests"]["successful"]
    assert [answer["output_tokens"] for answer in answers] == [24] * 4
    assert all(answer["time_to_first_token_ms"] > 0 for answer in answers)
