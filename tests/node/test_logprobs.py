"""Likelihoods of tokens: in OpenAI's two forms, whole and streamed, and as an engine has them."""

import functools
import math
from typing import Any, Final

import openai
import pytest
import trio
from trio.testing import MockClock, trio_test

from node.api.logprobs import ChatLog, CompletionLog
from node.engine.ctransformers.likelihood import measure, score_prompt
from node.engine.protocol import Echoed, Evaluated, Generate, Sampled
from node.requests.request import Candidate, EndReason, Likelihood, Token
from tests.node.memory_child import Children, MemoryChild
from tests.node.scripted import CLIENT_WARNINGS
from tests.node.test_tools import open_client

pytestmark = CLIENT_WARNINGS

LIKELY: Final = Likelihood(-0.5, (Candidate(7, b"a", -0.25), Candidate(8, b"\xf0", -1.5)))
PROMPT: Final = (Token(1, b"so"), Token(2, " ä".encode(), LIKELY))
FACE: Final = "\N{GRINNING FACE}".encode()


def sampled(request: int) -> list[Sampled]:
    """Return tokens of an answer: a word, and a character in two parts."""
    pieces = (b"a", FACE[:2], FACE[2:])
    return [Sampled(request, number, piece, LIKELY) for number, piece in enumerate(pieces)]


async def answered(
    children: Children, ask: Any, reason: EndReason = "length"
) -> tuple[Any, Generate]:
    """Return what the client makes of the answer, and the engine's command."""
    found: list[Any] = []
    async with open_client(children) as (client, child), trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await ask(client))

        nursery.start_soon(run)
        command = await hear(child)
        await child.say(Evaluated(command.request, 3, 3, 0))
        if command.echo:
            await child.say(Echoed(command.request, PROMPT, "so ä"))
        if not command.echo_only:
            await child.say(*sampled(command.request))
        await child.finish(command.request, reason)
    return found[0], command


async def hear(child: MemoryChild) -> Generate:
    """Wait for the request."""
    command = await child.hear()
    assert isinstance(command, Generate)
    return command


async def collect(client: openai.AsyncOpenAI, *, chat: bool, **asked: Any) -> list[Any]:
    """Return the choices of a stream's chunks."""
    kind: Any = client.chat.completions if chat else client.completions
    chunks = await kind.create(stream=True, **asked)
    return [choice async for chunk in chunks for choice in chunk.choices]


CHAT: Final[dict[str, Any]] = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "logprobs": True,
    "top_logprobs": 2,
}
TEXT: Final[dict[str, Any]] = {"model": "m", "prompt": "so ä", "logprobs": 2}


@trio_test
async def test_chat_reports_each_token(autojump_clock: MockClock, children: Children) -> None:
    """Each token has its log-probability and bytes, also a part of a character, in both forms."""
    del autojump_clock
    whole, command = await answered(children, lambda one: one.chat.completions.create(**CHAT))
    assert command.logprobs == 2
    content = whole.choices[0].logprobs.content
    assert [one.token for one in content] == ["a", r"\xf0\x9f", r"\x98\x80"]
    assert b"".join(bytes(one.bytes) for one in content) == b"a" + FACE
    assert [(one.token, one.logprob, one.bytes) for one in content[0].top_logprobs] == [
        ("a", -0.25, [97]),
        (r"\xf0", -1.5, [0xF0]),
    ]
    choices, _ = await answered(children, functools.partial(collect, chat=True, **CHAT))
    streamed = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    assert streamed == content


@trio_test
async def test_completion_reports_each_token(autojump_clock: MockClock, children: Children) -> None:
    """The legacy form has parallel lists; those of a stream's chunks add up to the whole's."""
    del autojump_clock
    whole, _ = await answered(children, lambda one: one.completions.create(**TEXT))
    lists = whole.choices[0].logprobs
    assert lists.tokens == ["a", r"bytes:\xf0\x9f", r"bytes:\x98\x80"]
    assert lists.token_logprobs == [-0.5] * 3
    assert lists.top_logprobs[0] == {"a": -0.5, r"bytes:\xf0": -1.5}
    assert lists.text_offset == [0, 1, 1]
    choices, _ = await answered(children, functools.partial(collect, chat=False, **TEXT))
    streamed = [choice.logprobs for choice in choices if choice.logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in streamed for one in getattr(part, name)] == getattr(lists, name)


@pytest.mark.parametrize("max_tokens", [0, 3])
@trio_test
async def test_echo_begins_with_the_prompt(
    max_tokens: int, autojump_clock: MockClock, children: Children
) -> None:
    """The prompt's tokens precede the answer's; without an answer they are alone."""
    del autojump_clock
    asked = TEXT | {"echo": True, "max_tokens": max_tokens}
    whole, command = await answered(children, lambda one: one.completions.create(**asked))
    assert (command.echo, command.echo_only) == (True, max_tokens == 0)
    [choice] = whole.choices
    answer = b"a" + FACE if max_tokens else b""
    assert choice.text == "so ä" + answer.decode()
    assert choice.logprobs.tokens[:2] == ["so", " ä"]
    assert choice.logprobs.token_logprobs[:2] == [None, -0.5]
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset[:3] == [0, 2, 4][: 2 + bool(max_tokens)]
    assert whole.usage.completion_tokens == max_tokens
    choices, _ = await answered(children, functools.partial(collect, chat=False, **asked))
    assert "".join(one.text for one in choices) == choice.text
    tokens = [token for one in choices if one.logprobs for token in one.logprobs.tokens]
    assert tokens == choice.logprobs.tokens


@trio_test
async def test_response_includes_likelihoods_of_its_text(
    autojump_clock: MockClock, children: Children
) -> None:
    """OpenAI's `include` adds them to the text, whole and streamed."""
    del autojump_clock
    asked: dict[str, Any] = {
        "model": "m",
        "input": "x",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    }
    whole, _ = await answered(children, lambda one: one.responses.create(**asked))
    logprobs = whole.output[0].content[0].logprobs
    assert (logprobs[0].token, logprobs[0].logprob) == ("a", -0.5)
    assert len(logprobs) == 3
    assert [len(one.top_logprobs) for one in logprobs] == [1, 1, 1]

    async def read(client: openai.AsyncOpenAI) -> Any:
        async with client.responses.stream(**asked) as events:
            return await events.get_final_response()

    streamed, _ = await answered(children, read, "stop")
    assert streamed.output[0].content[0].logprobs == logprobs


@pytest.mark.parametrize(
    ("chat", "asked", "parameter"),
    [
        (True, {"top_logprobs": 2}, "top_logprobs"),
        (True, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (False, {"logprobs": 21}, "logprobs"),
        (False, {"max_tokens": 0}, "max_tokens"),
    ],
)
@trio_test
async def test_impossible_wish_is_refused_by_name(
    chat: bool,  # noqa: FBT001
    asked: dict[str, Any],
    parameter: str,
    autojump_clock: MockClock,
    children: Children,
) -> None:
    """What does not fit together is a 400 that names the field."""
    del autojump_clock
    async with open_client(children) as (client, _):
        kind: Any = client.chat.completions if chat else client.completions
        prompt = {"messages": CHAT["messages"]} if chat else {"prompt": "x"}
        with pytest.raises(openai.BadRequestError) as refused:
            await kind.create(model="m", **prompt, **asked)
    assert refused.value.param == parameter


def test_likelihoods_are_those_of_the_logits() -> None:
    """They are the softmax of the logits, and the likeliest come first."""
    logits = [math.log(share) + 9 for share in (0.1, 0.7, 0.2)]
    found = measure(logits, 0, 2, lambda token: bytes([token]))
    assert found is not None
    assert found.logprob == pytest.approx(math.log(0.1))
    assert [one.identity for one in found.top] == [1, 2]
    assert [one.logprob for one in found.top] == pytest.approx([math.log(0.7), math.log(0.2)])
    assert measure((), 0, 2, lambda token: bytes([token])) is None


class FakeEngine:
    """A model whose next token is always the number of tokens so far."""

    def __init__(self) -> None:
        self.sequence: list[int] = [9, 9]

    def rewind(self, tokens: Any) -> list[int]:
        """Forget everything."""
        self.sequence = []
        return list(tokens)

    def evaluate(self, tokens: Any) -> None:
        """Append tokens."""
        self.sequence += tokens

    def logits(self) -> list[float]:
        """Return logits of four tokens."""
        return [5.0 if token == len(self.sequence) else 0.0 for token in range(4)]

    def text(self, token: int) -> bytes:
        """Return the token's number."""
        return str(token).encode()


def test_prompt_is_scored_from_its_second_token() -> None:
    """Each token is measured after those before it; the first has nothing before it."""
    engine = FakeEngine()
    first, second, third = score_prompt(engine, [3, 1, 0], 1)
    assert engine.sequence == [3, 1, 0]
    assert first == Token(3, b"3")
    assert second.likelihood is not None
    assert third.likelihood is not None
    assert second.likelihood.top[0].identity == 1
    assert second.likelihood.logprob == second.likelihood.top[0].logprob
    assert third.likelihood.logprob < third.likelihood.top[0].logprob


def test_log_without_tokens_is_nothing() -> None:
    """A chunk that completes no token has no likelihoods."""
    assert ChatLog(1).take(()) is None
    assert CompletionLog(1).take(()) is None
