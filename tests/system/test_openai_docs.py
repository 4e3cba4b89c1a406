"""The examples and tables of docs/api.md match a running node."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from node.api import chat_schema, schema
from node.api.neutral import NEUTRAL
from tests.processes import Running

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{n}" for n in range(len(BLOCKS))])
def test_example_runs(shared_node: Running, language: str, code: str) -> None:
    """Each example works with this node's address and prints an answer."""
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    code = code.replace("http://127.0.0.1:8080", shared_node.url)
    done = subprocess.run(
        [*program[language], code], capture_output=True, text=True, timeout=60, check=True
    )
    if language == "python":
        assert "CompletionUsage" in done.stdout
    elif '"stream"' in code:
        *chunks, end = done.stdout.split("\n\n")[:-1]
        assert end == "data: [DONE]"
        assert json.loads(chunks[-1].removeprefix("data: "))["choices"][0]["finish_reason"]
    else:
        assert json.loads(done.stdout)["choices"][0]["text"]


def test_every_field_is_in_the_page() -> None:
    """The page lists every field of a request, supported or refused."""
    told = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    for body in (schema.CompletionRequest, chat_schema.ChatRequest, schema.EmbeddingRequest):
        assert set(body.__struct_fields__) <= told, body.__name__


def test_accepted_values_of_the_page_are_neutral() -> None:
    """Each accepted value in the page's table changes nothing."""
    table = PAGE.read_text().partition("## Unsupported fields")[2].partition("`/openapi.json`")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    assert len(named) > 30
    assert {name.rpartition(".")[2] for name in named} <= set().union(*NEUTRAL.values())
