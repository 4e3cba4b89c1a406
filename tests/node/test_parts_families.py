"""Calls as each model family writes them are read back, however odd and in whatever pieces.

The formats are those of the chat templates in the models' files; the oddities are those that the
tests of vLLM, SGLang and llama.cpp record from the models.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api import reading
from node.api.calling import part_reader
from node.api.chat_schema import ChatRequest
from node.api.parts import harmony
from node.api.parts.chat import ChatReader
from node.requests.parts import CallArguments, Part
from tests.node.test_parts import OSLO, PARIS, Whole, whole

Calls = Sequence[tuple[str, dict[str, Any]]]


def hermes(words: str, calls: Calls) -> str:
    bodies = [json.dumps({"name": name, "arguments": passed}) for name, passed in calls]
    return words + "".join(f"\n<tool_call>\n{body}\n</tool_call>" for body in bodies)


def qwen_coder(words: str, calls: Calls) -> str:
    def parameter(name: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return f"<parameter={name}>\n{text}\n</parameter>\n"

    for name, passed in calls:
        inside = "".join(parameter(*one) for one in passed.items())
        words += f"\n<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"
    return words


def llama(_words: str, calls: Calls) -> str:
    return "; ".join(json.dumps({"name": name, "parameters": passed}) for name, passed in calls)


def llama_tagged(words: str, calls: Calls) -> str:
    return f"{words}<|python_tag|>{llama('', calls)}"


def mistral(words: str, calls: Calls) -> str:
    listed = [{"name": name, "arguments": passed} for name, passed in calls]
    return f"{words}[TOOL_CALLS]{json.dumps(listed, ensure_ascii=False)}"


def mistral_11(words: str, calls: Calls) -> str:
    return words + "".join(
        f"[TOOL_CALLS]{name}[ARGS]{json.dumps(passed)}" for name, passed in calls
    )


def deepseek_3(words: str, calls: Calls) -> str:
    bodies = [
        f"function<｜tool▁sep｜>{f}\n```json\n{json.dumps(passed)}\n```" for f, passed in calls
    ]
    inside = "\n".join(f"<｜tool▁call▁begin｜>{body}<｜tool▁call▁end｜>" for body in bodies)
    return f"{words}<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def deepseek_31(words: str, calls: Calls) -> str:
    bodies = [f"{name}<｜tool▁sep｜>{json.dumps(passed)}" for name, passed in calls]
    inside = "".join(f"<｜tool▁call▁begin｜>{body}<｜tool▁call▁end｜>" for body in bodies)
    return f"{words}<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def gpt_oss(words: str, calls: Calls) -> str:
    messages = [f"<|channel|>commentary<|message|>{words}<|end|>"] if words else []
    messages += [
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{json.dumps(passed)}<|call|>"
        for name, passed in calls
    ]
    return "<|start|>assistant".join(messages)


FAMILIES: Final[list[Callable[[str, Calls], str]]] = [
    *(hermes, qwen_coder, llama, llama_tagged, mistral, mistral_11),
    *(deepseek_3, deepseek_31, gpt_oss),
]
MARKS: Final = sorted(
    {
        *('"}</tool_call>', '\\"', "</tool_call>", "<tool_call>", "[TOOL_CALLS]", "[ARGS]", "```"),
        *("\n```json\n", "<｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>", "<｜tool▁call▁begin｜>"),
        *("<｜tool▁sep｜>", "<|python_tag|>", "<think>", "</think>", *harmony._ENDS),
        harmony._MESSAGE,
    }
)
"""Marks of the formats, which a text in a call's arguments may contain."""
odd_texts = st.text(st.sampled_from('ab {}[]"\\\n\t<>|,;:é€😀'), max_size=12)
marked_texts = st.lists(odd_texts | st.sampled_from(MARKS), max_size=4).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.floats(-1, 1) | marked_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(marked_texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.sampled_from(["city", "days", "body"]), values, max_size=3)
some_calls = st.lists(
    st.tuples(st.sampled_from(["get_weather", "a.b-c:d"]), arguments), min_size=1, max_size=3
)


def read(text: str, cuts: Sequence[int] = (), **options: Any) -> list[Part]:
    """Read a text in the pieces between the cuts."""
    reader = ChatReader(calls=True, **options)
    ends = [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return [part for piece in pieces for part in reader.feed(piece)] + reader.finish()


@given(
    family=st.sampled_from(FAMILIES),
    words=st.sampled_from(["", "I will look."]),
    calls=some_calls,
    cuts=st.lists(st.integers(0, 2000), max_size=40),
)
def test_written_calls_are_read_back(
    family: Callable[[str, Calls], str], words: str, calls: Calls, cuts: list[int]
) -> None:
    """Parallel calls with braces, quotes, line breaks and any script are read in any pieces."""
    texts = {(f, key) for f, passed in calls for key, value in passed.items() if value is not None}
    if family is qwen_coder:  # its values have no types of their own
        calls = [
            (f, {k: v for k, v in passed.items() if isinstance(v, str) and "</" not in v})
            for f, passed in calls
        ]
    found = whole(read(family(words, calls), cuts, texts=texts))
    assert found == ("", "" if family is llama else words, list(calls))


ODD: Final[dict[str, tuple[str, Whole]]] = {
    "hermes, the end mark is the end of the answer": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    "hermes, a line break inside of a text": (
        '<tool_call>{"name": "note", "arguments": {"text": "one\ntwo"}}</tool_call>',
        ("", "", [("note", {"text": "one\ntwo"})]),
    ),
    "hermes, arguments as a text": (
        r'<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>',
        ("", "", [("f", {"a": 1})]),
    ),
    "hermes, no arguments": (
        '<tool_call>{"name": "f", "arguments": null}</tool_call>',
        ("", "", [("f", {})]),
    ),
    "hermes, escapes": (
        r'<tool_call>{"name": "f", "arguments": {"a": "caf\u00e9 \ud83d\ude00"}}</tool_call>',
        ("", "", [("f", {"a": "café 😀"})]),
    ),
    "hermes, its own marks in a text": (
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>\\"</tool_call>"}}'
            "</tool_call> Yes."
        ),
        ("", "Yes.", [("f", {"a": '</tool_call>"</tool_call>'})]),
    ),
    "hermes, a text that does not end, and a call": (
        (
            '<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call> So "again": <tool_call>'
            '{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
        ),
        (
            "",
            '<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call> So "again":',
            [PARIS],
        ),
    ),
    "gpt-oss, its own marks in a text": (
        '<|channel|>commentary to=functions.f<|message|>{"a": "\\"<|call|>"}<|call|>',
        ("", "", [("f", {"a": '"<|call|>'})]),
    ),
    "mistral, words after the calls": (
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]\nThat is all.',
        ("", "That is all.", [OSLO]),
    ),
    "mistral, its mark of arguments is not shown": (
        '[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]get_weather{"city": "Oslo"}',
        ("", "", [PARIS, OSLO]),
    ),
    "llama, words after the call": (
        '{"name": "get_weather", "parameters": {"city": "Paris"}} I used {get_weather}.',
        ("", "I used {get_weather}.", [PARIS]),
    ),
    "deepseek, words after the calls": (
        deepseek_31("", [PARIS]) + "Done.",
        ("", "Done.", [PARIS]),
    ),
    "gpt-oss, no arguments": (
        "<|channel|>commentary to=functions.now<|message|><|call|>",
        ("", "", [("now", {})]),
    ),
    "gpt-oss, no arguments and no end mark": (
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>",
        ("", "", [("now", {})]),
    ),
}
"""Calls that are read although something about them is odd."""


@pytest.mark.parametrize("name", ODD)
def test_odd_call_is_read(name: str) -> None:
    """A call is read although something about it is odd, at once and by character."""
    text, expected = ODD[name]
    assert whole(read(text)) == whole(read(text, range(len(text)))) == expected


NO_CALLS: Final = (
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "hello"}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>',
    '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
    r'<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>',
    "<tool_call><function=>\n</function></tool_call>",
    '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}',
    "[TOOL_CALLS] not JSON",
    '[TOOL_CALLS]f[ARGS]{"a": ',
    '{"name": "f", "parameters": {invalid}}',
    '{"name": "f", "parameters": {"a": "cut o',
    '<|python_tag|>search.call(query="x")',
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{a}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{",
)
"""Broken calls, and calls that were cut off."""


@pytest.mark.parametrize("text", NO_CALLS)
def test_broken_call_is_words(text: str) -> None:
    """What cannot be a call is shown as it was written, at once and by character."""
    assert whole(read(text)) == whole(read(text, range(len(text)))) == ("", text, [])


def test_parameters_that_are_texts_are_known_from_their_schemas() -> None:
    """A chat's reader takes from the tools which parameters are texts; any schema is survived."""
    properties = {"path": {"type": "string"}, "mode": {"type": "integer"}, "odd": True}
    tools = [
        {
            "type": "function",
            "function": {"name": "write", "parameters": {"properties": properties}},
        },
        {"type": "function", "function": {"name": "odd", "parameters": {"properties": [1]}}},
        {"type": "function", "function": {"name": "now"}},
    ]
    body = {"messages": [{"role": "user", "content": "a"}], "tools": tools}
    reader = part_reader(reading.decode(json.dumps(body).encode(), ChatRequest))
    parts = reader.feed(qwen_coder("", [("write", {"path": "5", "mode": "5"})])) + reader.finish()
    assert whole(parts)[2] == [("write", {"path": "5", "mode": 5})]


def test_half_a_surrogate_pair_stays_an_escape() -> None:
    """Arguments can be encoded whatever a model escapes."""
    text = r'<tool_call>{"name": "f", "arguments": {"a": "\ud800é"}}</tool_call>'
    (arguments,) = (part.text for part in read(text) if isinstance(part, CallArguments))
    assert arguments.encode() == rb'{"a": "\ud800\u00e9"}'


def test_parameter_that_is_a_text_stays_one() -> None:
    """Qwen Coder writes values without types: one that is a text by its schema is not parsed."""
    text = qwen_coder("", [("write", {"path": "5", "body": '{"a": [1]}', "mode": "5"})])
    found = whole(read(text, texts={("write", "path"), ("write", "body")}))
    assert found[2] == [("write", {"path": "5", "body": '{"a": [1]}', "mode": 5})]
