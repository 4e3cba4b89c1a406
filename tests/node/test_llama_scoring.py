"""A llama-server reports likelihoods: of what it draws, of prompts, and inside characters."""

from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import trio_test

from node.demo import MODEL_PATH
from node.engine.ctransformers.header import read_open_header
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.ctransformers.likelihood import score_prompt
from node.engine.model_file import open_model
from node.engine.protocol import Echoed, Finished, Result, Sampled
from node.requests.request import Token
from tests.llama_servers import SERVERS, answer, generating, running, tokens_in
from tests.patience import patient
from tests.random_models import random_model
from tests.real_model import real_model

pytestmark = pytest.mark.slow

SECONDS: Final = 120.0
PROMPT: Final = "Once upon a time there was a little"
servers = pytest.mark.parametrize("server", SERVERS)


def logprobs(results: list[Result]) -> list[float]:
    """Return the log-probability of each token of an answer."""
    return [
        one.likelihood.logprob for one in results if isinstance(one, Sampled) and one.likelihood
    ]


def likely(results: list[Result]) -> list[Any]:
    """Return the tokens of an answer, all of them with a likelihood."""
    return [one for one in results if isinstance(one, Sampled) and one.likelihood]


def echoed(results: list[Result]) -> Echoed:
    """Return the prompt in an answer."""
    return next(one for one in results if isinstance(one, Echoed))


@servers
@trio_test
async def test_prompt_is_as_likely_as_when_it_was_drawn(
    server: Path | None, tmp_path: Path
) -> None:
    """An answer that is sent as a prompt has the same log-probabilities, token for token."""
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            drawn = await answer(link, generating(1, PROMPT, 8, logprobs=3))
            assert [len(one.likelihood.top) for one in likely(drawn)] == [3] * 8
            (prompt,) = [
                tuple(token.identity for token in echoed(results).tokens)
                for results in [await answer(link, generating(2, PROMPT, 1, logprobs=1, echo=True))]
            ]
            whole = (*prompt, *tokens_in(drawn))
            scored = echoed(
                await answer(link, generating(3, whole, 1, logprobs=1, echo=True, echo_only=True))
            )
    assert scored.tokens[0].likelihood is None
    measured = [one.likelihood.logprob for one in scored.tokens[1:] if one.likelihood]
    assert measured[-8:] == pytest.approx(logprobs(drawn), abs=0.02)
    likeliest = [one.likelihood.top[0] for one in scored.tokens[-8:] if one.likelihood]
    assert [one.identity for one in likeliest] == tokens_in(drawn)


@trio_test
async def test_first_token_of_a_prompt_has_its_text(tmp_path: Path) -> None:
    """A model without a token of its own for the beginning shows the text of the first one."""
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, random_model("qwen3")) as link:
            asked = generating(1, "One two", 1, logprobs=1, echo=True, echo_only=True)
            tokens: tuple[Token, ...] = echoed(await answer(link, asked)).tokens
    assert tokens[0].piece == b"O"
    assert b"".join(one.piece for one in tokens) == b"One two"


@trio_test
async def test_both_engines_agree(tmp_path: Path) -> None:
    """A prompt's log-probabilities are those that ctransformers has of the same model."""
    with open_model(MODEL_PATH) as file:
        vocabulary = read_open_header(file, MODEL_PATH).vocabulary
    engine = CTransformersEngine(str(MODEL_PATH), 256, 1, vocabulary)
    tokens = engine.tokenize(PROMPT, control_tokens=False)
    expected = list(score_prompt(engine, tokens, 2))
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH) as link:
            asked = generating(1, PROMPT, 1, logprobs=2, echo=True, echo_only=True)
            found = echoed(await answer(link, asked))
    assert found.text == PROMPT
    assert [one.identity for one in found.tokens] == tokens
    for one, other in zip(found.tokens[1:], expected[1:], strict=True):
        assert one.likelihood is not None
        assert other.likelihood is not None
        assert one.likelihood.logprob == pytest.approx(other.likelihood.logprob, abs=0.05)
        assert one.piece == other.piece


@servers
@trio_test
async def test_parts_of_a_character_have_likelihoods(server: Path | None, tmp_path: Path) -> None:
    """Tokens that the server shows only as a whole character are measured one by one."""
    letters = " ".join(map(chr, range(0x10330, 0x1033A)))
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, real_model(), server, batch_tokens=128) as link:
            drawn = await answer(link, generating(1, letters, 7, logprobs=2))
            assert isinstance(drawn[-1], Finished)
            parts = [one for one in drawn if isinstance(one, Sampled)]
            assert any(not one.text.isascii() and len(one.text) == 1 for one in parts)
            assert len(logprobs(drawn)) == len(parts)
            asked = generating(2, letters[:5], 1, logprobs=1, echo=True, echo_only=True)
            scored: tuple[Token, ...] = echoed(await answer(link, asked)).tokens
    assert b"".join(one.piece for one in scored).decode() == letters[:5]
    assert all(one.likelihood is not None for one in scored[1:])


@servers
@trio_test
async def test_answer_does_not_end_before_its_minimum(server: Path | None, tmp_path: Path) -> None:
    """The model's own end is put off to the smallest length, and may come after it."""
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, MODEL_PATH, server) as link:
            free = tokens_in(await answer(link, generating(1, "The end.", 100)))
            least = len(free) + 5
            results = await answer(link, generating(2, "The end.", 200, min_tokens=least))
            longer = tokens_in(results)
            assert len(longer) >= least
            assert longer[: len(free)] == free
            prior = tuple(longer[: least - 2])
            rest = await answer(link, generating(3, "The end.", 200, min_tokens=least, prior=prior))
            assert tokens_in(rest) == longer[least - 2 :]
