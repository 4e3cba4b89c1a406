"""A real node treats each field of the references as docs/api-fields.md says."""

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from deployments.fields_reference import PARTS, Claim, Part, claims
from node.api.neutral import is_neutral
from tests.patience import patient
from tests.processes import Pair, Running
from tests.random_models import random_model

pytestmark = pytest.mark.slow

TOOL: Final = {"name": "f", "parameters": {"type": "object"}}
USER: Final = [{"role": "user", "content": "Hello"}]
BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 2},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 2},
    "/v1/embeddings": {"model": "embedder", "input": "hello"},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 2},
    "/v1/messages": {"messages": USER, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": USER},
}
CHAT_TOOLS: Final = {"tools": [{"type": "function", "function": TOOL}]}
RESPONSES_TOOLS: Final = {"tools": [{"type": "function"} | TOOL]}
MESSAGES_TOOLS: Final = {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}
EXAMPLES: Final[dict[str, Any]] = {
    "best_of": 1,
    "cache_control": {"type": "ephemeral"},
    "dimensions": 8,
    "echo": True,
    "encoding_format": "base64",
    "frequency_penalty": 1,
    "input": "Hello",
    "instructions": "Be short.",
    "logit_bias": {"104": 1},
    "max_completion_tokens": 2,
    "max_output_tokens": 2,
    "max_tokens": 2,
    "messages": USER,
    "metadata": {"user_id": "u"},
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 1,
    "prompt": "Hello",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "u",
    "seed": 1,
    "stop": ["x"],
    "stop_sequences": ["x"],
    "stream": True,
    "suffix": "x",
    "system": "Be short.",
    "temperature": 0.5,
    "text": {"format": {"type": "json_object"}},
    "thinking": {"type": "disabled"},
    "top_k": 3,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
}
"""A value of each field that has the same form on all paths."""
OWN_EXAMPLES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("/v1/chat/completions", "logprobs"): {"logprobs": True},
    ("/v1/chat/completions", "stream_options"): {
        "stream_options": {"include_usage": True},
        "stream": True,
    },
    ("/v1/chat/completions", "tool_choice"): CHAT_TOOLS | {"tool_choice": "required"},
    ("/v1/chat/completions", "tools"): CHAT_TOOLS,
    ("/v1/chat/completions", "top_logprobs"): {"logprobs": True, "top_logprobs": 2},
    ("/v1/completions", "logprobs"): {"logprobs": 2},
    ("/v1/completions", "stream_options"): {
        "stream_options": {"include_usage": True},
        "stream": True,
    },
    ("/v1/responses", "include"): {"include": ["message.output_text.logprobs"]},
    ("/v1/responses", "top_logprobs"): {
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    },
    ("/v1/responses", "tool_choice"): RESPONSES_TOOLS | {"tool_choice": "required"},
    ("/v1/responses", "tools"): RESPONSES_TOOLS,
    ("/v1/messages", "tool_choice"): MESSAGES_TOOLS | {"tool_choice": {"type": "any"}},
    ("/v1/messages", "tools"): MESSAGES_TOOLS,
    ("/v1/messages/count_tokens", "tool_choice"): MESSAGES_TOOLS | {"tool_choice": {"type": "any"}},
    ("/v1/messages/count_tokens", "tools"): MESSAGES_TOOLS,
}
CASES: Final = [
    pytest.param(part, claim, id=f"{part.path}-{claim.name}")
    for part in PARTS
    if not part.place
    for claim in claims(part)
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a node with llama.cpp."""
    models = f"qwen3={random_model('qwen3')},embedder={random_model('embedder')}"
    node: Running
    with (
        Pair(tmp_path_factory.mktemp("node")).node(
            f"--model={models}", "--context-length=512"
        ) as node,
        httpx.Client(base_url=node.url, timeout=patient(60)) as opened,
    ):
        yield opened


def example(part: Part, claim: Claim) -> dict[str, Any]:
    """Return fields of a body that use this one."""
    if claim.name == "model":
        return {}
    own = OWN_EXAMPLES.get((part.path, claim.name))
    return own if own is not None else {claim.name: EXAMPLES[claim.name]}


@pytest.mark.parametrize(("part", "claim"), CASES)
def test_field_has_the_effect_that_the_page_names(
    client: httpx.Client, part: Part, claim: Claim
) -> None:
    """A field that is taken or has no effect is answered; a refused one is named in a 400."""
    body = BODIES[part.path]
    if claim.how != "refused":
        response = client.post(part.path, json=body | example(part, claim))
        assert response.status_code == 200, response.text
        return
    for value in ("x", {"x": 1}):
        if not is_neutral(value, claim.values):
            response = client.post(part.path, json=body | {claim.name: value})
            assert response.status_code == 400
            assert f"`{claim.name}`" in response.json()["error"]["message"]


def test_models_have_the_fields_of_the_reference(client: httpx.Client) -> None:
    """A model's object has every field of OpenAI's, and vLLM's one for its context."""
    listed = client.get("/v1/models").json()
    assert set(listed["data"][0]) == {"id", "created", "object", "owned_by", "max_model_len"}
    assert client.delete("/v1/models/qwen3").status_code == 405
