"""A greedy answer is the same over HTTP, over gRPC and from the bare engine."""

from collections.abc import Iterator
from random import Random
from typing import Final

import httpx
import pytest

from deployments.demo_model.corpus import write_texts
from node.demo import MODEL_PATH
from node.engine.ctransformers.header import read_header
from node.engine.ctransformers.library import CTransformersEngine
from node.requests.request import Sampling
from tests.grpc_client import Client, ask, connect
from tests.processes import Running, stream, text_of

PROMPTS: Final = 50
ANSWER_TOKENS: Final = 24
CONTEXT_TOKENS: Final = 512
GREEDY: Final = Sampling(temperature=0.0, top_k=40, top_p=0.95, repetition_penalty=1.0, seed=0)


def prompts() -> Iterator[str]:
    """Return beginnings of the model's own kind of text, and some of other kinds."""
    yield from ("naïve café, 日本語", "\N{FOX FACE}\N{DRAGON}", " ", "</s><s>", "x\n\n\ty")
    random = Random(11)
    for text in write_texts(random, PROMPTS - 5):
        words = text.split(" ")
        yield " ".join(words[: random.randint(1, 30)])


def alone(engine: CTransformersEngine, prompt: str) -> str:
    """Answer with the bare engine."""
    tokens = engine.tokenize(prompt, control_tokens=False)
    engine.evaluate(engine.rewind(tokens))
    answer = b""
    for position in range(len(tokens), len(tokens) + ANSWER_TOKENS):
        token = engine.sample(GREEDY, position)
        if engine.is_end(token):
            break
        answer += engine.text(token)
        engine.evaluate([token])
    return answer.decode(errors="replace")


@pytest.fixture(scope="module")
def client(shared_node: Running) -> Iterator[Client]:
    """A client of the node that serves the demo model."""
    with connect(shared_node.url) as connected:
        yield connected


@pytest.mark.slow
def test_fifty_prompts_have_one_answer_each(client: Client, shared_node: Running) -> None:
    """Greedy text is the same streamed and whole, in both protocols and from the bare engine."""
    vocabulary = read_header(MODEL_PATH).vocabulary
    engine = CTransformersEngine(str(MODEL_PATH), CONTEXT_TOKENS, 1, vocabulary)
    asked = list(prompts())
    assert len(set(asked)) >= PROMPTS
    answers: set[str] = set()
    for prompt in asked:
        expected = alone(engine, prompt)
        body = {"prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        whole = httpx.post(f"{shared_node.url}/v1/completions", json=body, timeout=60).json()
        request = ask(prompt=prompt, max_tokens=ANSWER_TOKENS)
        pieces = client.inference.GenerateStream(request)
        assert whole["choices"][0]["text"] == expected, prompt
        assert text_of(list(stream(shared_node.url, **body))) == expected, prompt
        assert client.inference.Generate(request).text == expected, prompt
        assert "".join(piece.text for piece in pieces) == expected, prompt
        answers.add(expected)
    assert len(answers) > PROMPTS / 2  # equal answers to all would prove nothing
