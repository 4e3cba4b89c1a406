"""A llama-server follows schemas and takes tools, options and token ids."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import trio_test

from node.api.parts import chat, harmony
from node.demo import MODEL_PATH
from node.engine.llama_cpp.completion import KEPT_TOKENS
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import LlamaServer, open_llama_server
from node.engine.protocol import Finished, Result, Tokenize, Tokenized
from node.requests.request import Chat, Prompt, Sampling
from tests.llama_servers import SERVERS, answer, generating, loading, text_in, tokens_in
from tests.patience import patient

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


@asynccontextmanager
async def running(directory: Path, model: Path, server: Path | None) -> AsyncIterator[LlamaServer]:
    """Yield a llama-server with a template for which its chat endpoint compiles schemas."""
    options = LlamaOptions(directory, "m", server, None, ("--chat-template", "chatml"))
    async with open_llama_server(options) as link:
        await link.send(loading(model))
        await link.receive()
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
            (refused,) = await answer(link, generating(3, hello, 60, min_tokens=30))
            assert isinstance(refused, Finished)
            assert refused.reason == "unsupported"


def test_every_mark_of_a_part_is_kept() -> None:
    """The control tokens that tell parts apart are named to the engine."""
    blocks = [*chat._THOUGHTS, *chat._CALLS]
    marks = {mark for block in blocks for mark in (block.opener, block.closer) if mark}
    assert {*marks, *harmony.OPENERS, *harmony._ENDS, harmony._MESSAGE} <= set(KEPT_TOKENS)
