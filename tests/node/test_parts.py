"""Answers in each model family's format are read as words, thoughts and calls, in any pieces."""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.parts.chat import ChatReader
from node.api.parts.forced import (
    CallListReader,
    NamedCallReader,
    calls_schema,
)
from node.api.parts.part import PartReader
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words

Whole = tuple[str, str, list[tuple[str, Any]]]
"""The thoughts, the words, and the calls with their arguments."""
PARIS: Final = ("get_weather", {"city": "Paris"})
OSLO: Final = ("get_weather", {"city": "Oslo"})

RECORDED: Final[dict[str, tuple[str, Whole]]] = {
    "hermes": (
        (
            "I will look.\n<tool_call>\n"
            '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        ),
        ("", "I will look.", [PARIS]),
    ),
    "qwen 3, two calls": (
        (
            "<think>\nTwo cities.\n</think>\n\n<tool_call>\n"
            '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n<tool_call>\n'
            '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        ),
        ("Two cities.", "", [PARIS, OSLO]),
    ),
    "qwen 3 coder": (
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
            "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
        ),
        ("", "", [("get_weather", {"city": "Paris", "days": 3})]),
    ),
    "llama 3.1": (
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    "llama 3.1, two calls": (
        (
            '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": '
            '"Paris"}}; {"name": "get_weather", "parameters": {"city": "Oslo"}}'
        ),
        ("", "", [PARIS, OSLO]),
    ),
    "mistral 7b": (
        (
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
            '{"name": "get_weather", "arguments": {"city": "Oslo"}}]'
        ),
        ("", "", [PARIS, OSLO]),
    ),
    "mistral small 3.2": (
        (
            '[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris"}'
            '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}'
        ),
        ("", "", [PARIS, OSLO]),
    ),
    "magistral": (
        "[THINK]Hm.[/THINK]It is sunny.",
        ("Hm.", "It is sunny.", []),
    ),
    "deepseek v3": (
        (
            "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
            'get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>\n'
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
            'get_weather\n```json\n{"city": "Oslo"}\n```<｜tool▁call▁end｜>'
            "<｜tool▁calls▁end｜>"
        ),
        ("", "Let me see.", [PARIS, OSLO]),
    ),
    "deepseek v3.1": (
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
            '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        ),
        ("", "", [PARIS]),
    ),
    "gpt-oss": (
        (
            "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>"
            'commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}'
            "<|call|>"
        ),
        ("Need the weather.", "", [PARIS]),
    ),
    "gpt-oss, recipient in the role": (
        (
            "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
            '{"city": "Oslo"}<|call|>'
        ),
        ("", "", [OSLO]),
    ),
    "gpt-oss, words": (
        (
            "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>"
            "It is sunny.<|return|>"
        ),
        ("Easy.", "It is sunny.", []),
    ),
    "words": ("  It is sunny.\n\nAnd warm.\n", ("", "  It is sunny.\n\nAnd warm.\n", [])),
    "no call after all": (
        'Write <tool_call>like this</tool_call> or {"name": 1}',
        ("", 'Write <tool_call>like this</tool_call> or {"name": 1}', []),
    ),
    "an object": ('{"name": "Ann"}', ("", '{"name": "Ann"}', [])),
    "cut off in a thought": ("<think>\nHm, I", ("Hm, I", "", [])),
    "cut off in a call": (
        '<tool_call>{"name": "get_we',
        ("", '<tool_call>{"name": "get_we', []),
    ),
}
"""Answers as the models of each family write them, with their control tokens."""


def whole(parts: list[Part]) -> Whole:
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    words = "".join(part.text for part in parts if isinstance(part, Words))
    calls = []
    for begun in (part for part in parts if isinstance(part, CallBegun)):
        pieces = [
            part.text
            for part in parts
            if isinstance(part, CallArguments) and part.number == begun.number
        ]
        calls.append((begun.name, json.loads("".join(pieces))))
    return thoughts, words, calls


def read(reader: PartReader, text: str, size: int) -> list[Part]:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [part for piece in pieces for part in reader.feed(piece)] + reader.finish()


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answer_is_read_in_any_pieces(name: str) -> None:
    """However an answer is cut into pieces, its parts are the same."""
    text, expected = RECORDED[name]
    for size in (1, 2, 3, 7, 1000):
        assert whole(read(ChatReader(calls=True), text, size)) == expected


def test_calls_are_words_unless_there_are_tools() -> None:
    """Without tools nothing is a call; thoughts are still kept apart."""
    text = '<think>Hm.</think>Say <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    thoughts, words, calls = whole(read(ChatReader(calls=False), text, 3))
    assert (thoughts, calls) == ("Hm.", [])
    assert words == text.partition("</think>")[2]


def test_thoughts_that_the_prompt_opened_are_thoughts() -> None:
    """A template may open the thoughts; the answer then only closes them."""
    reader = ChatReader(calls=False, thinks=True)
    assert whole(read(reader, "\nHm.\n</think>\n\nYes.", 2)) == ("Hm.", "Yes.", [])


@pytest.mark.parametrize("name", [name for name, (_, found) in RECORDED.items() if found[2]])
def test_only_one_call_if_calls_must_not_be_parallel(name: str) -> None:
    """Calls after the first are left out if the caller wants one."""
    text, (_, _, calls) = RECORDED[name]
    reader = ChatReader(calls=True, parallel=False)
    assert whole(read(reader, text, 5))[2] == calls[:1]


def test_calls_are_numbered_and_have_ids_of_their_own() -> None:
    """Each call has its number and a new id, in the form that Mistral's templates insist on."""
    parts = read(ChatReader(calls=True), RECORDED["mistral 7b"][0], 9)
    begun = [part for part in parts if isinstance(part, CallBegun)]
    assert [part.number for part in begun] == [0, 1]
    identities = {part.identity for part in begun}
    assert len(identities) == 2
    assert all(len(one) == 9 and one.isalnum() for one in identities)


READERS: Final[list[Callable[[], PartReader]]] = [
    lambda: ChatReader(calls=True),
    lambda: ChatReader(calls=False, thinks=True),
    lambda: NamedCallReader("f"),
    CallListReader,
]


@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *("<think>", "</think>", "[TOOL_CALLS]", "<tool_call>", "</tool_call>", "<|call|>"),
                *("<|channel|>", "<|message|>", "<|end|>", "final", '{"name": "f"', "}", "[ARGS]"),
                *("<function=", "<parameter=", "<｜tool▁calls▁begin｜>", " ", "\n", "a", "<", "["),
            ]
        ),
        max_size=12,
    ),
    reader=st.sampled_from(READERS),
)
def test_any_text_is_read(pieces: list[str], reader: Callable[[], PartReader]) -> None:
    """Whatever a model writes, it is read without an error and the same in any pieces."""
    text = "".join(pieces)
    at_once = read(reader(), text, max(1, len(text)))
    assert _joined(at_once) == _joined(read(reader(), text, 1))


def _joined(parts: list[Part]) -> list[tuple[str, str]]:
    """Return the parts without ids, neighbours of one kind joined."""
    joined: list[tuple[str, str]] = []
    for part in parts:
        kind, text = type(part).__name__, part.name if isinstance(part, CallBegun) else part.text
        if joined and joined[-1][0] == kind != "CallBegun":
            text = joined.pop()[1] + text
        joined.append((kind, text))
    return joined


def test_named_call_is_passed_on_as_it_comes() -> None:
    """The answer that a schema forces is the arguments, from the first piece."""
    reader = NamedCallReader("get_weather")
    first = reader.feed('{"city"')
    assert isinstance(first[0], CallBegun)
    assert first[1:] == [CallArguments(0, '{"city"')]
    parts = [*first, *reader.feed(': "Paris"}'), *reader.finish()]
    assert whole(parts) == ("", "", [PARIS])


def test_listed_calls_are_shown_one_by_one() -> None:
    """A forced list gives each call when it is complete; braces in texts do not count."""
    text = json.dumps([{"name": "f", "arguments": {"a": '}"{', "b": {}}}] * 2)
    call = ("f", {"a": '}"{', "b": {}})
    for size in (1, 5, 1000):
        assert whole(read(CallListReader(), text, size)) == ("", "", [call, call])
    assert whole(read(CallListReader(), text[:-2], 3))[2] == [call]


def test_schema_of_a_list_keeps_the_references_of_each_function() -> None:
    """References in a function's schema point into their new place."""
    city = {"$ref": "#/$defs/city"}
    defs = {"city": {"type": "string"}}
    parameters = {"type": "object", "properties": {"city": city}, "$defs": defs}
    schema = calls_schema({"f": None, "g": parameters}, parallel=False)
    moved = schema["items"]["anyOf"][1]["properties"]["arguments"]
    target: Any = schema
    for step in moved["properties"]["city"]["$ref"].removeprefix("#/").split("/"):
        target = target[int(step) if isinstance(target, list) else step]
    assert target == {"type": "string"}
    assert schema["maxItems"] == 1
