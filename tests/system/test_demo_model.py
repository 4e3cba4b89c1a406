"""The demo model gives the same readable answers in the engine and in a current llama.cpp."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import xllamacpp

from deployments.demo_model.corpus import write_texts
from node.demo import MODEL_PATH
from node.engine.chat import render_chat
from node.engine.ctransformers.header import read_header
from node.engine.ctransformers.library import CTransformersEngine
from node.requests.request import Sampling
from tests.processes import Running

REFERENCES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "deployments/demo_model/reference.json").read_text()
)
GREEDY = Sampling(temperature=0.0, top_k=1, top_p=1.0, repetition_penalty=1.0, seed=0)
VOCABULARY = read_header(MODEL_PATH).vocabulary
FILE_BYTES_AT_MOST = 4 * 2**20


def name_of(reference: dict[str, Any]) -> str:
    """Return a reference's name: its last question."""
    return str(reference.get("text") or reference["messages"][-1]["content"])


@pytest.fixture(scope="module")
def engine() -> CTransformersEngine:
    """The product's engine with the demo model."""
    return CTransformersEngine(str(MODEL_PATH), 512, 1, VOCABULARY)


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[xllamacpp.Server]:
    """A current llama.cpp with the demo model."""
    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL_PATH)
    params.n_ctx, params.n_parallel, params.verbosity = 512, 1, 0
    params.cpuparams.n_threads = 1
    before = threading.active_count()
    yield xllamacpp.Server(params)
    assert threading.active_count() == before


def test_file_is_small() -> None:
    """The model is small enough for the repository."""
    assert MODEL_PATH.stat().st_size <= FILE_BYTES_AT_MOST


@pytest.mark.parametrize("reference", REFERENCES, ids=name_of)
def test_engine_answers_as_in_training(
    engine: CTransformersEngine, reference: dict[str, Any]
) -> None:
    """Prompt tokens and greedy answer are those of PyTorch with the same weights."""
    if "messages" in reference:
        turns = reference["messages"]
        prompt = render_chat(VOCABULARY.template, turns, special=VOCABULARY.special)
    else:
        prompt = reference["text"]
    tokens = engine.tokenize(prompt, control_tokens="messages" in reference)
    assert tokens == reference["prompt_tokens"]
    engine.evaluate(engine.rewind(tokens))
    answer = b""
    for position, _ in enumerate(reference["answer_tokens"], len(tokens)):
        token = engine.sample(GREEDY, position)
        answer += engine.text(token)
        engine.evaluate([token])
    assert answer.decode() == reference["answer"]
    assert engine.is_end(engine.sample(GREEDY, 0)) == reference["finished"]


@pytest.mark.parametrize("reference", REFERENCES, ids=name_of)
def test_llama_cpp_answers_the_same(llama_cpp: xllamacpp.Server, reference: dict[str, Any]) -> None:
    """A current llama.cpp gives the same answer, with the file's tokenizer and template."""
    limits = {
        "max_tokens": len(reference["answer_tokens"]) + reference["finished"],
        "temperature": 0.0,
    }
    if "messages" in reference:
        asked = {"messages": reference["messages"], **limits}
        told = llama_cpp.handle_chat_completions(asked)["choices"][0]["message"]["content"]
    else:
        asked = {"prompt": reference["text"], **limits}
        told = llama_cpp.handle_completions(asked)["choices"][0]["text"]
    assert told == reference["answer"]


@pytest.fixture(scope="module")
def known_words() -> set[str]:
    """Return every word of the training's grammar."""
    return set(re.findall(r"[^\W\d_]+", " ".join(write_texts(Random(1), 3000))))


@pytest.mark.parametrize("seed", range(5))
def test_story_is_readable(shared_node: Running, known_words: set[str], seed: int) -> None:
    """A story has known words in whole sentences about one hero, and ends by itself."""
    asked = {"prompt": "Once upon a time", "seed": seed}
    answer = httpx.post(f"{shared_node.url}/v1/completions", json=asked, timeout=60).json()
    story = "Once upon a time" + answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert story[-1] in '.!?"'
    assert len(re.findall(r"[.!?]", story)) >= 6
    assert not set(re.findall(r"[^\W\d_]+", story)) - known_words
    named = re.search(r"named (\w+)|called (\w+)|name was (\w+)", story)
    assert named
    assert story.count(next(filter(None, named.groups()))) >= 3


def test_chat_turn_tells_the_story_that_was_asked_for(shared_node: Running) -> None:
    """A chat turn uses the model's own template and answers the question."""
    asked = {"messages": [{"role": "user", "content": "Tell me a story about a dragon"}]}
    url = f"{shared_node.url}/v1/chat/completions"
    answer = httpx.post(url, json={**asked, "temperature": 0}, timeout=60).json()
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert "dragon" in message["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
