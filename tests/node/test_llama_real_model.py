"""A real model in llama-server: text of many scripts, and answers that are continued."""

from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from tests.llama_servers import SERVERS, answer, generating, running, text_in, tokens_in
from tests.patience import patient
from tests.real_model import real_model

pytestmark = pytest.mark.slow

SECONDS = 120.0
GOTHIC = " ".join(map(chr, range(0x10330, 0x1033A)))
"""Letters that the vocabulary does not have: each takes several tokens."""


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("prompt", ["def quicksort(a):", GOTHIC])
@trio_test
async def test_real_answer_is_continued_token_for_token(
    prompt: str, server: Path | None, tmp_path: Path
) -> None:
    """What was lost continues at any token, also inside a character of several tokens."""
    model = real_model()
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, model, server, batch_tokens=128) as link:
            whole = tokens_in(await answer(link, generating(1, prompt, 30)))
            for drawn in (1, 10, 11, 12, 13):
                await answer(link, generating(2, "another", 1))
                prior = tuple(whole[:drawn])
                rest = tokens_in(await answer(link, generating(3, prompt, 30, prior=prior)))
                assert rest == whole[drawn:]


@trio_test
async def test_character_of_several_tokens_arrives_whole(tmp_path: Path) -> None:
    """Every token of a character is reported, with its own bytes."""
    model = real_model()
    with trio.fail_after(patient(SECONDS)):
        async with running(tmp_path, model, batch_tokens=128) as link:
            results = await answer(link, generating(1, GOTHIC, 20))
    text = text_in(results)
    assert any(ord(character) > 0xFFFF for character in text)
    assert len(tokens_in(results)) > len(text)
