"""lm-eval measures a model through the node."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import gguf
import httpx
import pytest
import yaml

from tests.patience import patient
from tests.processes import Pair, Running
from tests.random_models import random_model

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / ".local/load-clients/bin"
QUESTIONS: Final = [
    {"question": "One two", "choices": ["three", "four and five"], "answer": 0},
    {"question": "Paris is in", "choices": ["France", "Norway"], "answer": 0},
]

pytestmark = pytest.mark.slow


def run(*command: str | Path) -> None:
    """Run a program of the environment; fail with what it printed."""
    done = subprocess.run(
        [ENVIRONMENT / command[0], *command[1:]],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        timeout=patient(300.0),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write_tokenizer(model: Path, directory: Path) -> Path:
    """Write the tokenizer of a model for `transformers`; return its directory."""
    fields = gguf.GGUFReader(model).fields

    def texts(name: str) -> list[str]:
        field = fields[f"tokenizer.ggml.{name}"]
        return [bytes(field.parts[at]).decode() for at in field.data]

    tokens = texts("tokens")
    vocabulary = {"tokens": tokens, "merges": texts("merges"), "end": tokens[-1]}
    file = directory / "vocabulary.json"
    file.write_text(json.dumps(vocabulary), encoding="utf-8")
    run("python", Path(__file__).parent / "write_tokenizer.py", file, directory / "tokenizer")
    return directory / "tokenizer"


def write_task(directory: Path) -> None:
    """Write a task of multiple choice."""
    questions = directory / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    (directory / "tiny.yaml").write_text(yaml.safe_dump(task))


def likelihood(node: Running, context: str, choice: str) -> float:
    """Return the log-likelihood of a choice after a context, drawn by the model token by token."""
    asked: dict[str, Any] = {"model": "tiny", "prompt": context + choice, "max_tokens": 1}
    asked |= {"echo": True, "logprobs": 1, "temperature": 0}
    answer = httpx.post(f"{node.url}/v1/completions", json=asked, timeout=patient(60.0)).json()
    told = answer["choices"][0]["logprobs"]
    end = len(context + choice)
    values: list[float] = [
        value
        for value, offset in zip(told["token_logprobs"], told["text_offset"], strict=True)
        if len(context) <= offset < end
    ]
    return sum(values)


def test_evaluation_gets_the_likelihoods_of_its_choices(tmp_path: Path) -> None:
    """lm-eval's `local-completions` gets each choice's log-likelihood, by `echo` and `logprobs`."""
    if not (ENVIRONMENT / "lm_eval").exists():
        pytest.skip("lm-eval is not installed: run `just test-slow`")
    model = random_model("qwen3")
    write_task(tmp_path)
    tokenizer = write_tokenizer(model, tmp_path)
    with Pair(tmp_path / "node").node(f"--model=tiny={model},engine=llama.cpp") as node:
        served = f"model=tiny,base_url={node.url}/v1/completions,tokenizer={tokenizer}"
        run(
            *("lm_eval", "--model", "local-completions", "--model_args", served),
            *("--tasks", "tiny", "--include_path", tmp_path),
            *("--output_path", tmp_path / "out", "--log_samples"),
        )
        (report,) = (tmp_path / "out").rglob("samples_tiny_*.jsonl")
        samples = [json.loads(line) for line in report.read_text().splitlines()]
        assert len(samples) == len(QUESTIONS)
        for sample in samples:
            question = sample["doc"]
            for choice, (measured,) in zip(question["choices"], sample["resps"], strict=True):
                wanted = likelihood(node, question["question"], f" {choice}")
                assert float(measured[0]) == pytest.approx(wanted, abs=0.01)
