"""The stream of a server elsewhere becomes results, and its lies become nothing."""

import json
from typing import Any

import pytest

from node.engine.protocol import Counted, Evaluated, Finished, Generate, Result, Said, Sampled
from node.engine.upstream.errors import BrokenError, StatusError
from node.engine.upstream.stream import StreamReader
from node.requests.parts import CallArguments, CallBegun, Thought, Words
from node.requests.request import UNKNOWN_TOKEN, Chat, Sampling, Token

SAMPLING = Sampling(0, 1, 1, 1, 1)
CHAT = Chat(({"role": "user", "content": "hi"},))


def generate(prompt: Any = CHAT, max_tokens: int = 0, said: tuple[Token, ...] = ()) -> Generate:
    return Generate(1, prompt, max_tokens, SAMPLING, said=said)


def line(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return line({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def call(index: int, identity: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": identity, "type": "function", "function": function}


def read(*lines: bytes, command: Generate | None = None) -> list[Result]:
    """Return the results of a whole stream, which arrives in the smallest pieces."""
    reader = StreamReader(command or generate(), 100)
    octets = b"".join(lines)
    size = len(octets) // 1000 + 1
    pieces = (octets[at : at + size] for at in range(0, len(octets), size))
    results = [found for piece in pieces for found in reader.feed(piece)]
    return results + reader.finish()


def test_answer_is_read_in_its_parts() -> None:
    """Thoughts, words and calls come in their order; comments and roles are nothing."""
    results = read(
        b": keep-alive\n\n",
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(reasoning="hm"),
        delta(content="Grüße"),
        delta(tool_calls=[call(0, "c1", "f", "")]),
        delta(tool_calls=[call(0, None, None, '{"a":')]),
        delta(tool_calls=[call(0, None, None, "1}")]),
        delta(tool_calls=[call(1, "c2", "g", "{}")]),
        delta("tool_calls"),
        b"data:[DONE]\n\n",
    )
    parts = [result.part for result in results if isinstance(result, Said)]
    assert parts == [
        *(Thought("hm"), Thought("hm"), Words("Grüße")),
        *(CallBegun(0, "f", "c1"), CallArguments(0, '{"a":'), CallArguments(0, "1}")),
        *(CallBegun(1, "g", "c2"), CallArguments(1, "{}")),
    ]
    assert results[0] == Evaluated(1, 0, 0, 0)
    assert results[-2:] == [Counted(1, 0, 0, 0), Finished(1, "stop", "")]


def test_whole_calls_of_one_index_are_several_calls() -> None:
    """Ollama sends each call whole and may call all of them the first; ids tell them apart."""
    calls = [call(0, "c1", "f", "{}"), call(0, "c2", "f", "{}"), call(1, None, "h", "{}")]
    results = read(delta(tool_calls=calls), delta("tool_calls"))
    begun = [r.part for r in results if isinstance(r, Said) and isinstance(r.part, CallBegun)]
    assert [(one.number, one.name) for one in begun] == [(0, "f"), (1, "f"), (2, "h")]
    assert len({one.identity for one in begun}) == 3
    assert all(one.identity for one in begun)


def test_completion_is_text_without_parts() -> None:
    """A completion's text is a token's bytes, whose id is unknown."""
    lines = [line({"choices": [{"text": "a<think>", "finish_reason": "length"}]})]
    results = read(*lines, command=generate("p"))
    assert Sampled(1, UNKNOWN_TOKEN, b"a<think>") in results
    assert results[-1] == Finished(1, "length", "")


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 5}, (9, 0, 3)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            (9, 4, 0),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 10}}, (9, 0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": -7}, (0, 0, 0)),
        ({"prompt_tokens": 10**12, "completion_tokens": 10**12}, (0, 0, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, (0, 0, 0)),
        ({"prompt_tokens": 1.5, "completion_tokens": "many"}, (0, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": None}, (0, 0, 0)),
        ({"prompt_tokens_details": 3}, (0, 0, 0)),
        ("none", (0, 0, 0)),
        ([], (0, 0, 0)),
    ],
)
def test_usage_counts_if_it_can_be_true(usage: Any, counted: tuple[int, int, int]) -> None:
    """Counts beyond the text's length, below what was seen, or of no number are not used."""
    lines = [delta(content="one"), delta(content="two"), delta("stop")]
    results = read(*lines, line({"choices": [], "usage": usage}), b"data: [DONE]\n\n")
    assert results[-2] == Counted(1, *counted)


def test_usage_is_bounded_by_what_was_asked_for() -> None:
    """No more tokens count than the request allowed."""
    lines = [delta(content="one"), delta("stop"), line({"usage": {"completion_tokens": 40}})]
    assert read(*lines, command=generate(max_tokens=39))[-2] == Counted(1, 0, 0, 0)
    assert read(*lines, command=generate(max_tokens=40))[-2] == Counted(1, 0, 0, 39)


def test_usage_of_a_continued_answer_leaves_out_what_was_said() -> None:
    """The words so far were a part of the continued prompt."""
    said = (Token(UNKNOWN_TOKEN, b"", None, Words("a")),) * 4
    lines = [delta(content="b"), delta("stop"), line({"usage": {"prompt_tokens": 10}})]
    assert read(*lines, command=generate(said=said))[-2] == Counted(1, 6, 0, 0)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (delta(content="a"),),
        (delta(content="a"), b"data: {\n\n"),
        (delta(content="a"), b"data: \xff\n\n"),
        (b"data: " + b"[" * 100_000 + b"\n\n",),
        (b"data: []\n\n",),
        (line({"choices": "none"}),),
        (line({"choices": [{"delta": {"content": 5}}]}),),
        (line({"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]}),),
        (b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',),
        (delta("abort", content="a"),),
        (line({"error": {"message": "out of memory", "code": 500}}),),
        (line({"error": "out of memory"}),),
    ],
)
def test_broken_stream_is_no_answer(lines: tuple[bytes, ...]) -> None:
    """A stream that is cut, is not JSON, or reports a fault of the server is broken."""
    with pytest.raises(BrokenError):
        read(*lines)


def test_endless_line_is_broken() -> None:
    """A line without an end is not kept in memory for ever."""
    reader = StreamReader(generate(), 100)
    reader.feed(b"x" * 2**22)
    reader.feed(b"x")
    with pytest.raises(BrokenError, match="an event of more than"):
        reader.finish()


def test_error_of_the_request_in_a_stream_is_the_callers() -> None:
    """A fault of the request keeps its status."""
    with pytest.raises(StatusError, match="too long") as refused:
        read(line({"error": {"message": "too  long", "code": 400}}))
    assert refused.value.status == 400


def test_nothing_counts_after_the_end_mark() -> None:
    """What follows the end mark is not read."""
    results = read(delta("stop", content="a"), b"data: [DONE]\n\n", delta(content="b"))
    assert [r.part for r in results if isinstance(r, Said)] == [Words("a")]
