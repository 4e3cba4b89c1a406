"""Several prompts and answers in one request, and prompts of token ids, with OpenAI's client."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from node.demo import MODEL_PATH
from node.engine.ctransformers.header import read_header
from node.engine.ctransformers.library import CTransformersEngine
from tests.processes import Running

STORY = "Once upon a time"
HELLO: Any = [{"role": "user", "content": "Hello"}]
ASKED: Any = [{"role": "user", "content": "Tell me a story"}]


@pytest.fixture(scope="module")
def client(shared_node: Running) -> Iterator[openai.OpenAI]:
    url = f"{shared_node.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    """Return the ids of the prompt's tokens."""
    engine = CTransformersEngine(str(MODEL_PATH), 256, 1, read_header(MODEL_PATH).vocabulary)
    return engine.tokenize(STORY, control_tokens=False)


def test_prompts_and_answers_come_in_order(client: openai.OpenAI) -> None:
    """The choices are first all answers to the first prompt; each prompt counts once."""
    asked: Any = {"model": "demo", "max_tokens": 5}
    prompts = [STORY, "The dog"]
    whole = client.completions.create(prompt=prompts, n=2, seed=7, **asked)
    alone = [
        client.completions.create(prompt=prompt, seed=seed, **asked)
        for prompt in prompts
        for seed in (7, 8)
    ]
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in whole.choices] == [one.choices[0].text for one in alone]
    used = [one.usage.prompt_tokens for one in alone if one.usage is not None]
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == used[0] + used[2]
    assert whole.usage.completion_tokens == 4 * 5


def test_several_answers_are_streamed_as_they_are_answered_whole(client: openai.OpenAI) -> None:
    """Each chunk belongs to the answer of its index, and each answer has one end."""
    asked: Any = {"model": "demo", "messages": ASKED, "max_tokens": 20, "seed": 7, "n": 3}
    whole = client.chat.completions.create(**asked)
    texts: dict[int, str] = defaultdict(str)
    ends = []
    usage = None
    options: Any = {"include_usage": True}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends.append((choice.index, choice.finish_reason))
        usage = chunk.usage or usage
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert sorted(ends) == [(choice.index, choice.finish_reason) for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert len(set(texts.values())) > 1


def test_prompt_of_token_ids_is_its_text(client: openai.OpenAI, tokens: list[int]) -> None:
    """Token ids have the same result as their text, in completions and embeddings."""
    asked: Any = {"model": "demo", "max_tokens": 9, "temperature": 0}
    text = client.completions.create(prompt=STORY, **asked).choices[0].text
    assert client.completions.create(prompt=tokens, **asked).choices[0].text == text
    twice = client.completions.create(prompt=[tokens, tokens], **asked)
    assert [choice.text for choice in twice.choices] == [text, text]
    vectors = client.embeddings.create(model="demo", input=[tokens, tokens[:3]])
    plain = client.embeddings.create(model="demo", input=STORY)
    assert vectors.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert vectors.usage.prompt_tokens == len(tokens) + 3


def test_token_that_the_model_does_not_have_is_refused(client: openai.OpenAI) -> None:
    """An id outside the vocabulary is refused, and says how far the vocabulary goes."""
    with pytest.raises(openai.BadRequestError, match=r"token 99999; .* tokens end at"):
        client.completions.create(model="demo", prompt=[1, 99999], max_tokens=1)


def test_answer_is_as_long_as_asked(client: openai.OpenAI) -> None:
    """`ignore_eos` and `min_tokens` keep the model from ending its answer."""
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 60}
    short = client.chat.completions.create(**asked)
    assert short.usage is not None
    least = short.usage.completion_tokens + 5
    assert short.choices[0].finish_reason == "stop"
    endless = client.chat.completions.create(**asked, extra_body={"ignore_eos": True})
    assert endless.usage is not None
    assert (endless.choices[0].finish_reason, endless.usage.completion_tokens) == ("length", 60)
    longer = client.chat.completions.create(**asked, extra_body={"min_tokens": least})
    assert longer.usage is not None
    assert 60 >= longer.usage.completion_tokens >= least


def test_stop_token_ends_the_answer(client: openai.OpenAI, tokens: list[int]) -> None:
    """A stop token ends the text before it."""
    asked: Any = {"model": "demo", "temperature": 0, "max_tokens": 5}
    whole = client.completions.create(prompt=tokens[:-1], **asked)
    assert whole.choices[0].text.startswith(" time")
    ends: Any = {"stop_token_ids": [tokens[-1]]}
    cut = client.completions.create(prompt=tokens[:-1], **asked, extra_body=ends)
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("", "stop")
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 1


def test_each_chunk_has_the_usage_so_far(client: openai.OpenAI) -> None:
    """The counts of `continuous_usage_stats` end with those of the whole answer."""
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 9}
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    used = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(used) == len(chunks)
    counts = [usage.completion_tokens for usage in used]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert used[-2] == used[-1]
    assert {usage.prompt_tokens for usage in used} == {used[-1].prompt_tokens}
