"""The link to a server elsewhere, with a real server that fails in every way."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import trio_test

from node.engine.protocol import (
    Cancel,
    Counted,
    Declined,
    Dropped,
    Embedded,
    Evaluated,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Resized,
    Result,
    Said,
    Sampled,
    Tokenize,
    Tokenized,
)
from node.engine.upstream.address import Address
from node.engine.upstream.link import UpstreamLink, UpstreamOptions, open_upstream
from node.requests.parts import CallArguments, CallBegun, Thought, Words
from node.requests.request import UNKNOWN_TOKEN, Chat, Sampling, Token
from tests.patience import patient
from tests.upstreams import Act, Close, Refuse, Reply, Say, Upstream, serving

SAMPLING = Sampling(0.8, 40, 0.95, 1, 1)
CHAT = Chat(({"role": "user", "content": "hi"},))
LOAD = Load(b"", 0, 0, 0, slots=4)
KEY = "the-key-that-nobody-may-see"
TIME = 60.0

# As in test_peer_client.py: the generator of a response that is not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*PoolByteStream:pytest.PytestUnraisableExceptionWarning"
)


def asking(
    request: int = 1, prompt: Any = CHAT, asked: dict[str, Any] | None = None, **changes: Any
) -> Generate:
    sampling = msgspec.structs.replace(SAMPLING, asked=asked or {})
    return Generate(request, prompt, **{"max_tokens": 0, "sampling": sampling, **changes})


def said(*words: str) -> tuple[Token, ...]:
    return tuple(Token(UNKNOWN_TOKEN, b"", None, Words(word)) for word in words)


@asynccontextmanager
async def linked(
    upstream: Upstream, stall_seconds: float = 100.0, **changes: Any
) -> AsyncIterator[UpstreamLink]:
    """Yield a link that is not loaded."""
    address = Address(upstream.url, "big", **changes)
    with trio.fail_after(patient(TIME)):
        async with open_upstream(UpstreamOptions(address, "m", stall_seconds)) as link:
            yield link


@asynccontextmanager
async def loaded(upstream: Upstream, **changes: Any) -> AsyncIterator[UpstreamLink]:
    """Yield a link whose server has the model."""
    async with linked(upstream, **changes) as link:
        await link.send(LOAD)
        assert await link.receive() == [Loaded(0, 4, "vLLM")]
        yield link


async def until_end(link: UpstreamLink, request: int = 1) -> list[Result]:
    """Return the results up to the one that ends a request, without sizes."""
    results: list[Result] = []
    while not any(
        isinstance(r, Finished | Declined | Dropped) and r.request == request for r in results
    ):
        received = await link.receive()
        assert received, await link.wait_epitaph()
        results += received
    return [result for result in results if not isinstance(result, Resized)]


async def answer(link: UpstreamLink, command: Generate | Tokenize) -> list[Result]:
    await link.send(command)
    return await until_end(link, command.request)


@trio_test
async def test_what_a_caller_sent_is_passed_through() -> None:
    """The server gets the fields as they were sent, and decides what was not."""
    tools = ({"type": "function", "function": {"name": "f"}},)
    asked = {"temperature": 0.1, "tool_choice": "required", "seed": 7, "stop": ["x"]}
    turns = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [_called({"a": 1})]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    )
    chat = Chat(turns, {"enable_thinking": False}, tools)
    with serving() as upstream:
        async with loaded(upstream) as link:
            await answer(link, asking(prompt=chat, asked=asked, max_tokens=9))
        assert upstream.requests() == [
            {
                "model": "big",
                "messages": [
                    turns[0],
                    turns[1] | {"tool_calls": [_called('{"a": 1}')]},
                    turns[2],
                ],
                "tools": list(tools),
                "chat_template_kwargs": {"enable_thinking": False},
                **asked,
                "max_tokens": 9,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ]


def _called(arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@trio_test
async def test_answer_comes_in_parts_and_ends_with_its_counts() -> None:
    """Thoughts, words and calls are passed on as the server read them."""
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}
    pieces = ({"reasoning": "hm"}, "words", {"tool_calls": [call]})
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    with serving(default=Say(pieces, finish="tool_calls", usage=usage)) as upstream:
        async with loaded(upstream) as link:
            assert await answer(link, asking()) == [
                Evaluated(1, 0, 0, 0),
                Said(1, Thought("hm")),
                Said(1, Words("words")),
                Said(1, CallBegun(0, "f", "c1")),
                Said(1, CallArguments(0, "{}")),
                Counted(1, 7, 0, 5),
                Finished(1, "stop", ""),
            ]


@trio_test
async def test_end_does_not_wait_for_the_connection() -> None:
    """An answer is over at its end mark, though its server keeps the connection."""
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    with serving(default=Say(("a",), raw=end, hang=True)) as upstream:
        async with loaded(upstream) as link:
            assert (await answer(link, asking()))[-1] == Finished(1, "stop", "")


@pytest.mark.parametrize(
    ("act", "ending"),
    [
        (Refuse(400, "bad tools"), ("refused", "bad tools")),
        (Refuse(422, "bad tools"), ("refused", "bad tools")),
        (Refuse(400, "This model's maximum context length is 8"), ("too_long", "length is 8")),
        (Refuse(404, "no such model"), ("failed", "no such model")),
        (Refuse(307, "elsewhere"), ("failed", "307")),
        (Refuse(401, KEY), ("failed", "it refuses the key in")),
        (Refuse(403, KEY), ("failed", "it refuses the key in")),
    ],
)
@trio_test
async def test_refusal_ends_the_request(act: Act, ending: tuple[str, str], tmp_path: Path) -> None:
    """A refusal is the caller's fault or the operator's, and is not tried again."""
    with serving(default=act, key=KEY) as upstream:
        async with loaded(upstream, key_file=_written(tmp_path)) as link:
            (finished,) = await answer(link, asking())
    assert isinstance(finished, Finished)
    reason, text = ending
    assert finished.reason == reason
    assert text in finished.message
    assert KEY not in finished.message


@pytest.mark.parametrize(
    "act",
    [
        Refuse(500),
        Refuse(502),
        Close(),
        Say(cut=True, finish=None, done=False),
        Say(finish=None, done=False),
        Say(raw=b"data: {broken\n\n"),
        Say(raw=b'data: {"error": {"message": "out of memory"}}\n\n'),
        Say(finish="abort"),
    ],
)
@trio_test
async def test_fault_of_the_server_drops_the_request(act: Act) -> None:
    """A server that breaks off may be asked again; the link and its other requests stay."""
    with serving(acts=_first(act)) as upstream:
        async with loaded(upstream) as link:
            assert (await answer(link, asking()))[-1] == Dropped(1, "crashed")
            assert (await answer(link, asking(2)))[-1] == Finished(2, "stop", "")


@pytest.mark.parametrize("status", [429, 503])
@trio_test
async def test_busy_server_gets_fewer_requests_for_a_while(status: int) -> None:
    """A request that is not taken waits, and the server gets more when its pause is over."""
    with serving(acts=_first(Refuse(status, headers={"Retry-After": "0"}))) as upstream:
        async with loaded(upstream) as link:
            await link.send(asking())
            assert await _sizes(link, 1) == [0, 1]
            assert (await answer(link, asking(2)))[-1] == Finished(2, "stop", "")
            assert await _sizes(link, 4) in ([2, 3, 4], [3, 4], [4])


async def _sizes(link: UpstreamLink, last: int) -> list[int]:
    """Return the sizes up to one of them."""
    sizes: list[int] = []
    while last not in sizes:
        sizes += [each.slots for each in await link.receive() if isinstance(each, Resized)]
    return sizes


@trio_test
async def test_hanging_request_is_given_up_alone() -> None:
    """Keep-alive comments are no progress; a request that makes progress goes on."""
    with serving(acts=_first(Say(("a",), hang=True), Say(("b",), hang=True))) as upstream:
        async with loaded(upstream, stall_seconds=1.0) as link:
            results = await answer(link, asking())
            assert results[-1] == Dropped(1, "stalled")
            await trio.to_thread.run_sync(upstream.left.acquire)
            assert (await answer(link, asking(2)))[-1] == Dropped(2, "stalled")
            assert (await answer(link, asking(3)))[-1] == Finished(3, "stop", "")


@trio_test
async def test_cancel_closes_the_connection() -> None:
    """A cancelled request is at its end when the server can see that."""
    with serving(default=Say(("a",), hang=True)) as upstream:
        async with loaded(upstream) as link:
            await link.send(asking())
            while not any(isinstance(each, Said) for each in await link.receive()):
                pass
            await link.send(Cancel(1))
            assert await until_end(link) == [Finished(1, "cancelled", "")]
            await trio.to_thread.run_sync(upstream.left.acquire)


@trio_test
async def test_chat_is_continued_where_the_server_can() -> None:
    """The words so far become the last message, and no more tokens are asked for than are left."""
    with serving() as upstream:
        async with loaded(upstream) as link:
            await answer(link, asking(said=said("Hello", " w"), max_tokens=10))
            (body,) = upstream.requests()
    assert body["messages"] == [*CHAT.turns, {"role": "assistant", "content": "Hello w"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["max_tokens"] == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"said": (Token(UNKNOWN_TOKEN, b"", None, Thought("hm")),)},
        {"said": said("a"), "asked": {"response_format": {"type": "json_object"}}},
        {"said": said("a"), "prompt": Chat(CHAT.turns, {}, ({"function": {"name": "f"}},))},
        {"said": (Token(UNKNOWN_TOKEN, b"a"),), "prompt": (1, 2, 3)},
    ],
)
@trio_test
async def test_answer_that_cannot_be_continued_fails_openly(changes: dict[str, Any]) -> None:
    """Thoughts, calls and forms are not continued: the caller gets an error, not half an answer."""
    with serving() as upstream:
        async with loaded(upstream) as link:
            (finished,) = await answer(link, asking(**changes))
        assert upstream.requests() == []
    assert isinstance(finished, Finished)
    assert finished.reason == "parted"
    assert "cannot be continued" in finished.message


@trio_test
async def test_unknown_server_continues_no_chat() -> None:
    """A server that does not say what it is may begin a new message instead."""
    with serving(models=[{"id": "big"}]) as upstream:
        async with linked(upstream) as link:
            await link.send(LOAD)
            assert await link.receive() == [Loaded(0, 4, "")]
            (finished,) = await answer(link, asking(said=said("a")))
    assert isinstance(finished, Finished)
    assert finished.reason == "parted"


@trio_test
async def test_text_is_continued_by_its_own_end() -> None:
    """A completion goes on after its prompt and the text so far."""
    so_far = (Token(UNKNOWN_TOKEN, b" upon"), Token(UNKNOWN_TOKEN, b" a"))
    with serving() as upstream:
        async with loaded(upstream) as link:
            results = await answer(link, asking(prompt="Once", said=so_far))
            (body,) = upstream.requests("/v1/completions")
    assert body["prompt"] == "Once upon a"
    assert Sampled(1, UNKNOWN_TOKEN, b"Hello") in results


@trio_test
async def test_vectors_scores_and_tokens() -> None:
    """Vectors, scores and tokens come from the server's own paths."""
    ranked = Chat(({"role": "query", "content": "q"}, {"role": "document", "content": "d"}))
    with serving() as upstream:
        async with loaded(upstream) as link:
            usage = {"prompt_tokens": 3}
            upstream.acts.append(Reply({"data": [{"embedding": [0.6, 0.8]}], "usage": usage}))
            results = await answer(link, asking(prompt="text", embed=True))
            assert Embedded(1, (0.6, 0.8)) in results
            assert Counted(1, 3, 0, 0) in results
            upstream.acts.append(Reply({"results": [{"index": 0, "relevance_score": 0.5}]}))
            assert Embedded(1, (0.5,)) in await answer(link, asking(prompt=ranked, embed=True))
            upstream.acts.append(Reply({"tokens": [4, 5]}))
            assert Tokenized(1, (4, 5), "text") in await answer(link, Tokenize(1, "text"))
            upstream.acts.append(Reply({"prompt": "text"}))
            assert Tokenized(1, (4, 5), "text") in await answer(link, Tokenize(1, (4, 5)))
    paths = [asked.path for asked in upstream.asked if asked.body]
    assert paths == ["/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize"]


@pytest.mark.parametrize("changes", [{"logprobs": 0}, {"echo": True}])
@trio_test
async def test_tokens_of_a_server_are_not_promised(changes: dict[str, Any]) -> None:
    """Log-probabilities and an echo need token ids, which a server does not send."""
    with serving() as upstream:
        async with loaded(upstream) as link:
            (finished,) = await answer(link, asking(prompt="x", **changes))
        assert upstream.requests("/v1/completions") == []
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.parameter) == ("unsupported", "logprobs")


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (asking(prompt="x", embed=True), "/embeddings"),
        (asking(prompt="x"), "/completions"),
        (Tokenize(1, "x"), "/tokenize"),
        (Tokenize(1, CHAT), "/tokenize"),
    ],
)
@trio_test
async def test_path_that_the_server_lacks_is_named(command: Generate | Tokenize, path: str) -> None:
    """What a server cannot do is refused by name."""
    with serving(default=Refuse(404, "Not Found")) as upstream:
        async with loaded(upstream) as link:
            (finished,) = await answer(link, command)
    assert isinstance(finished, Finished)
    assert finished.reason == "unsupported"
    assert f"has no {path}" in finished.message


@pytest.mark.parametrize(
    "body", [{"data": []}, {"data": [{"embedding": []}]}, {"data": [{"embedding": ["x"]}]}, b"{"]
)
@trio_test
async def test_nonsense_is_no_vector(body: Any) -> None:
    """A vector without numbers is a fault of the server."""
    with serving(default=Reply(body)) as upstream:
        async with loaded(upstream) as link:
            results = await answer(link, asking(prompt="x", embed=True))
    assert results == [Dropped(1, "crashed")]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"models": [{"id": "a"}, {"id": "b"}]}, "does not serve 'big'; it lists 'a', 'b'"),
        ({"models": []}, "it lists none"),
        ({"listing": Refuse(404, "Not Found")}, "does the URL end where OpenAI's paths begin?"),
        ({"listing": Reply(b"<html>")}, "is not a list of models"),
        ({"listing": Reply({"data": 5})}, "is not a list of models"),
        ({"key": "other"}, "answered 401: it refuses the key in"),
        ({"key": "other", "shows_models": True}, "answered 401: it refuses the key in"),
    ],
)
@trio_test
async def test_useless_server_is_not_loaded(
    changes: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """The error says what to change, and never contains the key."""
    with serving(**changes) as upstream:
        async with linked(upstream, key_file=_written(tmp_path)) as link:
            await link.send(LOAD)
            (failed,) = await link.receive()
    assert isinstance(failed, LoadFailed)
    assert fault in failed.message
    assert KEY not in failed.message


@pytest.mark.parametrize("act", [Refuse(503, "loading"), Refuse(500), Close()])
@trio_test
async def test_server_that_is_not_ready_is_lost(act: Act) -> None:
    """A server that may come back is not at fault: its check is repeated."""
    with serving(listing=act) as upstream:
        async with linked(upstream) as link:
            await link.send(LOAD)
            assert await link.receive() == []
            assert f"{upstream.url}#big cannot be used" in await link.wait_epitaph()


@pytest.mark.slow
@trio_test
async def test_loss_of_an_idle_server_is_noticed() -> None:
    """A server that stops while nothing is asked is lost, too."""
    with serving() as upstream:
        async with loaded(upstream) as link:
            await trio.to_thread.run_sync(upstream.stop)
            assert await link.receive() == []
            assert "cannot be used" in await link.wait_epitaph()


@trio_test
async def test_loss_under_requests_declines_or_drops_them() -> None:
    """Of a killed server, begun requests are dropped and new ones declined; then it is lost.

    A new one gets no result if the loss was noticed before it.
    """
    with serving(default=Say(("a",), hang=True)) as upstream:
        async with loaded(upstream) as link:
            await link.send(asking())
            while not any(isinstance(each, Said) for each in await link.receive()):
                pass
            await trio.to_thread.run_sync(upstream.stop)
            await link.send(asking(2))
            results: list[Result] = []
            while received := await link.receive():
                results += received
    assert Dropped(1, "crashed") in results
    assert [each for each in results if each in (Declined(2), Dropped(2, "crashed"))] in (
        [Declined(2)],
        [],
    )


def _first(*acts: Act) -> Any:
    return deque(acts)


def _written(directory: Path) -> Path:
    file = directory / "key"
    file.write_text(f"# of the big server\n{KEY}\n")
    return file
