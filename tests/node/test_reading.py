"""Bodies are read, or refused with all faults by full path; neutral values are accepted."""

import contextlib
import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import chat as openai_chat
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from node.api import reading
from node.api.chat_schema import ChatRequest, Message, TextPart
from node.api.neutral import NEUTRAL
from node.api.responses.schema import ResponsesRequest
from node.api.schema import CompletionRequest, EmbeddingRequest, StreamOptions
from node.errors import InvalidRequestError

USER: Final = {"role": "user", "content": "a"}
BODIES: Final[dict[type[Any], dict[str, Any]]] = {
    CompletionRequest: {"prompt": "a"},
    ChatRequest: {"messages": [USER]},
    EmbeddingRequest: {"input": "a"},
}
KINDS: Final = list(BODIES)
WRONG: Final[dict[str, list[Any]]] = {
    "best_of": [2],
    "echo": [True, 0],
    "mirostat": [2],
    "skip_special_tokens": [False],
    "suffix": ["end"],
    "audio": [{"voice": "alloy", "format": "mp3"}],
    "function_call": [{"name": "f"}, "f"],
    "functions": [[{"name": "f"}]],
    "modalities": [["text", "audio"]],
    "parallel_tool_calls": ["yes"],
    "prediction": [{"type": "content", "content": "x"}],
    "reasoning_effort": ["high"],
    "response_format": [{"type": "json_object"}, {}],
    "service_tier": ["flex"],
    "store": [True],
    "tool_choice": ["required", {"type": "function"}],
    "tools": [[{"type": "function"}]],
    "top_logprobs": [1],
    "verbosity": ["low"],
    "web_search_options": [{}],
    "dimensions": [3],
}
"""Values of unsupported fields that would change the answer."""


def read(kind: type[Any], **body: Any) -> Any:
    return reading.decode(json.dumps(body).encode(), kind)


def refusal(body: bytes | dict[str, Any], kind: type[Any] = ChatRequest) -> InvalidRequestError:
    """Return the error that refuses a body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequestError) as refused:
        reading.decode(raw, kind)
    return refused.value


@pytest.mark.parametrize("kind", KINDS)
def test_neutral_values_are_taken_one_by_one_and_together(kind: type[Any]) -> None:
    """A neutral value of an unsupported field is accepted, and so is null."""
    plain = read(kind, **BODIES[kind])
    for name, values in NEUTRAL[kind].items():
        for value in (*values, None):
            assert read(kind, **BODIES[kind], **{name: value}) == plain
    assert read(kind, **BODIES[kind], **dict.fromkeys(NEUTRAL[kind])) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_null_is_taken_wherever_a_field_is_optional(kind: type[Any]) -> None:
    """Null is accepted for every optional field."""
    optional = [field.name for field in msgspec.structs.fields(kind) if not field.required]
    assert read(kind, **BODIES[kind], **dict.fromkeys(optional)) == read(kind, **BODIES[kind])
    assert read(ChatRequest, messages=[USER], stream_options={"include_usage": None})


def test_neutral_values_inside_a_message_are_taken() -> None:
    """The message of an answer, of this or another server, can be sent back."""
    message = USER | {name: (*values, None)[0] for name, values in NEUTRAL[Message].items()}
    part = dict.fromkeys(NEUTRAL[TextPart]) | {"type": "text", "text": "b"}
    asked = read(ChatRequest, messages=[message, {"role": "user", "content": [part]}])
    assert [one.text for one in asked.messages] == ["a", "b"]
    options = dict.fromkeys(NEUTRAL[StreamOptions], False) | {"include_usage": True}
    assert read(ChatRequest, messages=[USER], stream=True, stream_options=options).wants_usage()


OPENAI: Final = [
    (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
    (ChatRequest, chat_create_params.CompletionCreateParamsBase),
    (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
    (StreamOptions, openai_chat.ChatCompletionStreamOptionsParam),
    (Message, openai_chat.ChatCompletionAssistantMessageParam),
    (Message, openai_chat.ChatCompletionToolMessageParam),
    (Message, openai_chat.ChatCompletionUserMessageParam),
]


@pytest.mark.parametrize(("kind", "theirs"), OPENAI)
def test_every_field_of_openais_client_is_known(kind: type[Any], theirs: type[Any]) -> None:
    """Every field of OpenAI's client is supported or accepted at its neutral value."""
    known = {field.name for field in msgspec.structs.fields(kind)} | set(NEUTRAL[kind])
    assert set(theirs.__annotations__) <= known


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for name, values in WRONG.items()
        for value in values
        for kind in KINDS
        if name in NEUTRAL[kind] and name not in kind.__struct_fields__
    ],
)
def test_unsupported_field_is_refused_by_name(kind: type[Any], name: str, value: object) -> None:
    """An unsupported value that would change the answer is refused by name."""
    error = refusal(BODIES[kind] | {name: value}, kind)
    assert f"`{name}` is not supported" in str(error)
    assert error.parameter == name


@pytest.mark.parametrize("name", ["Prompt", "messages", "guided", "_", "", "`", "a b"])
def test_unknown_field_is_refused_by_name(name: str) -> None:
    """An unknown field is refused by name."""
    assert f"`{name}` is not a field" in str(refusal({"prompt": "a", name: 1}, CompletionRequest))


def test_all_faults_are_named_at_once_by_their_full_paths() -> None:
    """The error names all faults by full path; OpenAI's `param` is the first."""
    wrong = {
        "messages": [USER | {"nope": 1}, {"role": "user"}, {"role": "owner", "content": 5}, "x"],
        "max_tokens": "5",
        "stream_options": {"foo": 1},
        "tools": [{"type": "function"}],
        "verbosity": "low",
        "surprise": None,
    }
    error = refusal(wrong)
    assert error.parameter == "messages[0].nope"
    for path in (
        *("messages[0].nope", "messages[1].content", "messages[2].role", "messages[2].content"),
        *(
            "messages[3]",
            "max_tokens",
            "stream_options.foo",
            "tools[0].function",
            "verbosity",
            "surprise",
        ),
    ):
        assert f"`{path}` " in str(error)
    assert str(error).startswith("10 fields are refused: ")


def test_error_stays_short_whatever_was_sent() -> None:
    """The error is short and printable for any body."""
    many = str(refusal({"messages": [USER], **{f"field{n}": 1 for n in range(1000)}}))
    assert many.count(" is not a field") == reading.MOST_FAULTS
    long = refusal({"messages": [USER], "x\n\t\x1b[31m" * 10_000: 1})
    assert len(str(long)) < 400
    assert str(long).isprintable()


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ({"role": "assistant", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "function", "content": "x", "name": "f"}, "role"),
    ],
)
def test_functions_before_tools_are_refused_by_name(
    message: dict[str, Any], parameter: str
) -> None:
    """A message in the form that tools replaced gets one fault, with what replaced it."""
    error = refusal({"messages": [USER, message]})
    assert error.parameter == f"messages[1].{parameter}"
    assert "use `tool_calls`" in str(error)
    assert "fields are refused" not in str(error)


CALL: Final = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_tool_history_is_read_as_clients_send_it() -> None:
    """Calls come without content, with the extra fields that streams and dumps have."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}]}
    result = {"role": "tool", "content": "x", "tool_call_id": "1", "name": "f"}
    asked = read(ChatRequest, messages=[USER, called, result])
    assert [one.text for one in asked.messages] == ["a", None, "x"]
    assert asked.messages[1].tool_calls[0].function.name == "f"


def test_fields_that_clients_echo_are_taken() -> None:
    """Ids, hints and thoughts of earlier messages can be sent back."""
    hint = {"type": "ephemeral"}
    part = {"type": "text", "text": "b", "cache_control": hint}
    echoed = USER | {"id": "msg_1", "cache_control": hint, "content": [part]}
    thought = {"role": "assistant", "content": "c", "reasoning_content": "hm"}
    asked = read(ChatRequest, messages=[echoed, thought, USER], metadata={"trace": "1"})
    assert [one.text for one in asked.messages] == ["b", "c", "a"]


def test_what_clients_parsed_is_taken() -> None:
    """OpenAI's clients keep what they parsed in the message, and send it back with it."""
    function = {"name": "f", "arguments": '{"a": 1}', "parsed_arguments": {"a": 1}}
    called = {"role": "assistant", "content": None, "tool_calls": [CALL | {"function": function}]}
    result = {"role": "tool", "content": "x", "tool_call_id": "1"}
    answer = {"role": "assistant", "content": '{"b": 2}', "parsed": {"b": 2}}
    asked = read(ChatRequest, messages=[USER, called | {"parsed": None}, result, answer])
    assert asked.messages[3].text == '{"b": 2}'
    text = {"type": "output_text", "text": '{"b": 2}', "parsed": {"b": 2}}
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    items = [{"role": "assistant", "content": [text]}, call | {"parsed_arguments": {}}]
    assert len(read(ResponsesRequest, input=items).input) == 2


def test_part_that_is_not_text_is_refused_by_its_type() -> None:
    """Images, sounds and files are refused by their type, not by their fields."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    error = refusal({"messages": [{"role": "user", "content": [part]}]})
    assert error.parameter == "messages[0].content[0].type"
    assert "can only be text" in str(error)
    assert "fields are refused" not in str(error)


def test_number_is_whole_however_it_is_written() -> None:
    """A whole number may be written as 5.0, as some languages do."""
    asked = reading.decode(b'{"prompt": "a", "max_tokens": 5.0, "seed": 1e3}', CompletionRequest)
    assert (asked.max_tokens, asked.seed) == (5, 1000)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "line 1 column 2"),
        (b'{"prompt": "a"', "line 1 column 15"),
        (b'{"prompt": "a"} x', "line 1 column 17"),
        (b'{"prompt": "a",}', "line 1 column"),
        (b"{'prompt': 'a'}", "line 1 column 2"),
        (b'{"prompt": "a\nb"}', "control character"),
        (b"prompt=a", "line 1 column 1"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b'{"prompt": "\xff"}', "byte 12 is not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "byte 12 is not UTF-8"),
        (b'{"prompt": "\\ud83d"}', r"\ud83d at character 12"),
        (b'{"prompt": "\\udca9 and more text"}', r"\udca9 at character 12"),
        (b'{"prompt": "\\\\\\ud83dx\\u0041"}', r"\ud83d at character 14"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity"),
        (b'{"prompt": "a", "prompt": "b"}', "`prompt` occurs twice"),
        (b'{"prompt": "a", "stream_options": {"a": 1, "a": 1}}', "`a` occurs twice"),
        (b'{"prompt": "a", "n": 1, "n": 1}', "`n` occurs twice"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"[" * 100_000, "too deeply"),
        (b'{"prompt": ' + b"[" * 100_000, "too deeply"),
        (b'{"n": ' * 100_000, "too deeply"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_body_that_is_not_usable_says_what_and_where(body: bytes, told: str) -> None:
    """An unusable body is a 400 that names what is wrong and where."""
    assert told in str(refusal(body, CompletionRequest))


@pytest.mark.parametrize(
    ("value", "parameter"),
    [
        (b'"temperature": 1e999', "temperature"),
        (b'"seed": ' + b"9" * 5000, "seed"),
        (b'"seed": -' + b"9" * 25, "seed"),
        (b'"max_tokens": true', "max_tokens"),
        (b'"max_tokens": 1e400', "max_tokens"),
        (b'"temperature": ' + b"9" * 5000, "temperature"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_number_out_of_range_is_refused_by_name(value: bytes, parameter: str) -> None:
    """A number out of range is refused by name, even if Python or C cannot hold it."""
    error = refusal(b'{"prompt": "a", ' + value + b"}", CompletionRequest)
    assert error.parameter == parameter


def test_byte_order_mark_and_pairs_of_surrogates_are_read() -> None:
    """Byte order marks and surrogate pairs, common on Windows and in Java, are read."""
    body = b'\xef\xbb\xbf{"prompt": "\\ud83d\\ude00", "n": 1}'
    assert reading.decode(body, CompletionRequest).prompt == "\N{GRINNING FACE}"


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Any body is read or refused."""
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(reading.decode(body, ChatRequest), ChatRequest)


NEARLY: Final = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2) | st.none(),
        "max_tokens": st.integers(-2, 3) | st.floats(-2, 3) | st.none() | st.booleans(),
        "temperature": st.floats(-1, 101) | st.integers(-1, 3) | st.none(),
        "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=5) | st.integers(),
        "stream": st.booleans() | st.none() | st.integers(0, 1),
        "stream_options": st.dictionaries(st.just("include_usage"), st.booleans() | st.none()),
    },
)


@given(NEARLY)
def test_both_ways_of_reading_agree(document: dict[str, Any]) -> None:
    """Both ways of reading, by msgspec and field by field, agree."""
    raw = json.dumps(document).encode()
    try:
        quick = msgspec.json.decode(raw, type=CompletionRequest)
        quick.check()
    except (msgspec.ValidationError, InvalidRequestError):
        return
    assert reading.convert(document, CompletionRequest) == quick
