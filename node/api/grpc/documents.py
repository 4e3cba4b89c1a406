"""Reads a message as the JSON document that the HTTP API gets, so that both have the same checks.

The messages have the HTTP API's fields under the same names. What differs is here: fields of JSON
text, token ids as keys, choices that HTTP tells by their type, and parts that have only one kind.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from protobuf import Message

from node.api import json_text, reading
from node.api.chat_schema import ChatRequest
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.schema import Body, CompletionRequest
from node.api.token_schema import TokenizeRequest
from node.errors import InvalidRequestError

Document = dict[str, Any]

_JSON_TEXTS: Final = frozenset({"parameters", "schema", "chat_template_kwargs"})
_NO_PROMPT: Final = "send a prompt or a chat"
_Kind = TypeVar("_Kind", bound=Body)


def generation(message: pb.GenerateRequest, *, streamed: bool) -> CompletionRequest | ChatRequest:
    """Read what to generate.

    Raises:
        InvalidRequestError: A field is wrong.
    """
    document = _document(message) | {"stream": streamed}
    if document.pop("continuous_usage_stats", False) and streamed:
        document["stream_options"] = {"continuous_usage_stats": True}
    if "chat" in document:
        return reading.convert(document.pop("chat") | document, ChatRequest)
    _name_prompt(document)
    if document.pop("logprobs", False):  # one number in HTTP's completions
        document["logprobs"] = document.pop("top_logprobs", 0)
    return reading.convert(document, CompletionRequest)


def shown_prompt(message: pb.TokenizeRequest) -> TokenizeRequest:
    """Read the prompt whose tokens are wanted; raises like `generation`."""
    document = _document(message)
    return reading.convert(document.pop("chat", {}) | document, TokenizeRequest)


def plain(message: Message[Any], kind: type[_Kind]) -> _Kind:
    """Read a message that has the fields of the HTTP body; raises like `generation`."""
    return reading.convert(_document(message), kind)


def _name_prompt(document: Document) -> None:
    """Give the prompt its only name in HTTP, whatever its form is."""
    forms = [document.pop(name, None) for name in ("prompt", "prompt_token_ids", "prompts")]
    given = [form for form in forms if form is not None]
    if not given:
        raise InvalidRequestError(_NO_PROMPT, parameter="prompt")
    document["prompt"] = given[0]


def _document(message: Message[Any], path: str = "") -> Document:
    """Return the given fields of a message, which is at this path of the request."""
    return {
        field.name: _value(message[field], f"{path}.{field.name}".lstrip("."), field.name)
        for field in message
    }


def _value(value: Any, path: str, name: str) -> Any:
    if (read := _READERS.get(type(value))) is not None:
        return read(value, path)
    match value:
        case Message():
            return _document(value, path)
        case list():
            return [_value(one, f"{path}[{number}]", name) for number, one in enumerate(value)]
        case dict():  # JSON's keys are texts
            return {str(key): one for key, one in value.items()}
        case str() if name in _JSON_TEXTS:
            return _parsed(value, path)
    return value


def _prompt(prompt: pb.Prompt, path: str) -> Any:
    """Return a prompt's text or tokens; None if it has neither."""
    return None if prompt.form is None else _value(prompt.form.value, path, "")


def _choice(choice: pb.ToolChoice, _: str) -> Any:
    if choice.choice is None:
        return None
    if choice.choice.field == "function":
        return {"type": "function", "function": {"name": choice.choice.value}}
    return choice.choice.value


def _turn(turn: pb.ChatMessage, path: str) -> Document:
    """Return a turn. A turn of calls alone has no content in HTTP."""
    content = None if turn.tool_calls and not turn.content else turn.content
    return _document(turn, path) | {"role": turn.role, "content": content}


def _function(message: Message[Any], path: str) -> Document:
    return {"type": "function"} | _document(message, path)


def _parsed(text: str, path: str) -> Any:
    try:
        return json_text.parse(text.encode())
    except InvalidRequestError as error:
        problem = str(error).replace("the body", "the text", 1)
        raise InvalidRequestError(f"`{path}` must be JSON: {problem}", parameter=path) from error


_READERS: Final[dict[type, Callable[[Any, str], Any]]] = {
    pb.Chat: lambda chat, _: _document(chat),  # its fields are those of the body in HTTP
    pb.ChatMessage: _turn,
    pb.TokenIds: lambda tokens, _: list(tokens.ids),
    pb.Prompt: _prompt,
    pb.Prompts: lambda several, path: _value(several.prompts, path, ""),
    pb.Tool: _function,
    pb.ToolCall: _function,
    pb.ToolChoice: _choice,
}
"""The messages that differ from their objects in HTTP, by what reads them at a path."""
