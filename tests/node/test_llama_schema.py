"""A llama-server follows schemas and takes tools, options and token ids."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import trio
from trio.testing import trio_test

from node.api.parts import chat, harmony
from node.demo import MODEL_PATH
from node.engine.llama_cpp.completion import KEPT_TOKENS
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import LlamaServer, open_llama_server
from node.engine.protocol import Finished, Loaded, Result, Tokenize, Tokenized
from node.requests.request import Chat, Prompt, Sampling, Turn
from tests.llama_servers import SERVERS, answer, generating, loading, text_in, tokens_in
from tests.node.test_gbnf import CASES, PATTERNS
from tests.patience import patient
from tests.random_models import random_model
from tests.real_model import real_model

pytestmark = pytest.mark.slow

SECONDS = 60.0
servers = pytest.mark.parametrize("server", SERVERS)
PERSON: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}

NUMBERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"numbers": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
    "required": ["numbers"],
    "additionalProperties": False,
}
HERMES: Final = (
    "{% if tools %}<|im_start|>system\nCall functions so:\n<tool_call>\n"
    '{"name": <name>, "arguments": <arguments>}\n</tool_call>\n'
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@asynccontextmanager
async def running(directory: Path, model: Path, server: Path | None) -> AsyncIterator[LlamaServer]:
    """Yield a llama-server."""
    async with open_llama_server(LlamaOptions(directory, "m", server)) as link:
        await link.send(loading(model))
        assert isinstance((await link.receive())[-1], Loaded)
        yield link


@servers
@trio_test
async def test_answer_follows_its_schema(server: Path | None, tmp_path: Path) -> None:
    """Whatever the model would say, the answer is an object of the schema."""
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            for seed in range(3):
                drawn = Sampling(1.0, 40, 1.0, 1.0, seed)
                asked = generating(seed, "Tell", 100, schema=PERSON, sampling=drawn)
                results = await answer(link, asked)
                said = json.loads(text_in(results))
                assert said.keys() == {"name", "age"}
                assert 0 <= said["age"] <= 99


@servers
@trio_test
async def test_schema_that_cannot_be_followed_names_the_place(
    server: Path | None, tmp_path: Path
) -> None:
    """A schema with a fault is refused with the place of the fault, and the server stays."""
    wrong = {"type": "object", "properties": {"age": {"type": "integr"}}}
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            (refused,) = await answer(link, generating(1, "Tell", schema=wrong))
            assert isinstance(refused, Finished)
            assert (refused.reason, refused.parameter) == ("refused", "response_format")
            assert "at #/properties/age: unrecognized type integr" in refused.message
            assert text_in(await answer(link, generating(2, "Tell")))


@servers
@trio_test
async def test_every_grammar_is_taken(server: Path | None, tmp_path: Path) -> None:
    """A llama-server draws by the grammars of all kinds of schemas, and what it draws matches."""
    schemas = [schema for schema, *_ in CASES if "format" not in schema]
    schemas += [{"type": "string", "pattern": pattern} for pattern, *_ in PATTERNS[:3]]
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, random_model("qwen3"), server) as link:
            for number, schema in enumerate(schemas):
                drawn = Sampling(1.0, 40, 1.0, 1.0, number)
                asked = generating(number, "Tell", 150, schema=schema, sampling=drawn)
                results = await answer(link, asked)
                assert isinstance(results[-1], Finished)
                assert results[-1].reason in {"stop", "length"}, results[-1]
                if results[-1].reason == "stop":
                    jsonschema.validate(json.loads(text_in(results)), schema)


@servers
@trio_test
async def test_structured_answer_is_continued_token_for_token(
    server: Path | None, tmp_path: Path
) -> None:
    """An answer that was lost in its middle is repeated up to there, in its schema."""
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            whole = await answer(link, generating(1, "Tell", 100, schema=PERSON))
            prior = tuple(tokens_in(whole))[:4]
            asked = generating(2, "Tell", 100, schema=PERSON, prior=prior)
            assert tokens_in(await answer(link, asked)) == tokens_in(whole)[4:]


@servers
@trio_test
async def test_prompt_is_shown_as_tokens_and_text(server: Path | None, tmp_path: Path) -> None:
    """A chat, a text and tokens are shown as the model gets them."""
    hello = Chat(({"role": "user", "content": "Hello"},))
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            prompts: list[Prompt] = ["Tell", hello, (1, 2, 3)]
            for number, prompt in enumerate(prompts):
                await link.send(Tokenize(number, prompt))
                results: list[Result] = []
                while len(results) < 2:
                    results += await link.receive()
                shown, finished = results
                assert isinstance(shown, Tokenized)
                assert finished == Finished(number, "stop", "")
                assert shown.tokens
                assert prompt is not hello or "Hello" in shown.text


@servers
@trio_test
async def test_end_is_not_drawn_if_it_must_not_be(server: Path | None, tmp_path: Path) -> None:
    """An answer that must not end is as long as its limit."""
    hello = Chat(({"role": "user", "content": "Hello"},))
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            short = await answer(link, generating(1, hello, 60))
            assert short[-1] == Finished(1, "stop", "")
            long = await answer(link, generating(2, hello, 60, min_tokens=2**31 - 1))
            assert long[-1] == Finished(2, "length", "")
            assert len(tokens_in(long)) == 60
            (refused,) = await answer(link, generating(3, hello, 60, min_tokens=30, schema=PERSON))
            assert isinstance(refused, Finished)
            assert refused.reason == "unsupported"


@asynccontextmanager
async def calling(
    directory: Path, server: Path | None, template: str
) -> AsyncIterator[LlamaServer]:
    """Yield a llama-server with the real model and a template."""
    options = LlamaOptions(directory, "m", server, None, ("--chat-template", template))
    async with open_llama_server(options) as link:
        await link.send(loading(real_model(), context_length=1024, batch_tokens=128))
        assert isinstance((await link.receive())[-1], Loaded)
        yield link


def asking() -> Chat:
    """Return a chat in which tools were called several times, with arguments that are wrong now."""
    tool = {"type": "function", "function": {"name": "add", "parameters": NUMBERS}}
    turns: list[Turn] = []
    for word in ("one", "two", "three", "four"):
        call = {
            "id": "a",
            "type": "function",
            "function": {"name": "add", "arguments": {"words": [word]}},
        }
        turns += [
            {"role": "user", "content": f"Add {word}."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "done"},
        ]
    turns.append({"role": "user", "content": "Add five."})
    return Chat(tuple(turns), tools=(tool,))


@servers
@trio_test
async def test_strict_call_follows_its_schema(server: Path | None, tmp_path: Path) -> None:
    """The model chooses to call, and then the arguments are those of the schema."""
    with trio.fail_after(patient(2 * SECONDS)):
        async with calling(tmp_path, server, HERMES) as link:
            free = text_in(await answer(link, generating(1, asking(), 60)))
            assert "words" in free
            strict = text_in(await answer(link, generating(2, asking(), 60, strict=("add",))))
    _, _, call = strict.partition("<tool_call>")
    first, _ = json.JSONDecoder().raw_decode(call.lstrip())
    assert first["name"] == "add"
    assert first["arguments"].keys() == {"numbers"}


@servers
@trio_test
async def test_strict_tools_need_a_known_format(server: Path | None, tmp_path: Path) -> None:
    """A template without calls is refused by name, with what to do instead."""
    tool = {"type": "function", "function": {"name": "add", "parameters": NUMBERS}}
    asked = Chat(({"role": "user", "content": "Hello"},), tools=(tool,))
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            (refused,) = await answer(link, generating(1, asked, 9, strict=("add",)))
            assert isinstance(refused, Finished)
            assert (refused.reason, refused.parameter) == ("refused", "tools")
            assert "`tool_choice`" in refused.message


def test_every_mark_of_a_part_is_kept() -> None:
    """The control tokens that tell parts apart are named to the engine."""
    blocks = [*chat._THOUGHTS, *chat._call_blocks(frozenset())]
    marks = {mark for block in blocks for mark in (block.opener, block.closer) if mark}
    assert {*marks, *harmony.OPENERS, *harmony._ENDS, harmony._MESSAGE} <= set(KEPT_TOKENS)
