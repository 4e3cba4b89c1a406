"""Converts a caller's request, from any protocol, into the scheduler's requests.

`client` identifies the client that takes turns in the queue: the digest of its API key, else its
address.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec

from node.api.calling import answer_schema, described_tools, strict_tools
from node.api.chat_schema import ChatRequest, Message
from node.api.rerank_schema import RerankRequest
from node.api.schema import CompletionRequest, EmbeddingRequest, TextRequest
from node.api.token_schema import TokenizeRequest
from node.api.tools import ToolCall
from node.errors import InvalidRequestError
from node.requests.request import Chat, InferenceRequest, Prompt, Sampling, Turn

_SEEDS: Final = 2**64
_DECIDING: Final = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "logit_bias"),
    *("repetition_penalty", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("stop", "stop_token_ids", "min_tokens", "ignore_eos"),
    *("response_format", "tool_choice", "parallel_tool_calls"),
)
"""The fields of a request that an engine elsewhere gets as they are."""
_portable: Final = msgspec.msgpack.Encoder()


def completion_requests(
    asked: CompletionRequest, model_id: str, request_id: str, client: str = ""
) -> list[InferenceRequest]:
    """Convert a completion request: one request per answer, first all of the first prompt.

    Raises:
        InvalidRequestError: The engine cannot process a prompt.
    """
    prompts = [_checked(prompt, "prompt") for prompt in asked.prompts()]
    return _text_requests(asked, prompts, model_id, request_id, client)


def chat_requests(
    asked: ChatRequest, model_id: str, request_id: str, client: str = ""
) -> list[InferenceRequest]:
    """Convert a chat: one request per answer.

    The node that has the model renders the chat with the model's template. A final assistant
    message stays last, and the answer continues it.

    Raises:
        InvalidRequestError: The engine cannot process a message.
    """
    requests = _text_requests(asked, [chat_prompt(asked)], model_id, request_id, client)
    if (schema := answer_schema(asked)) is not None:
        requests = [replace(request, schema=schema) for request in requests]
    elif strict := strict_tools(asked):
        requests = [replace(request, strict=strict) for request in requests]
    _check_portable(schema, "response_format")
    return requests


def embedding_requests(
    asked: EmbeddingRequest, model_id: str, request_id: str, client: str = ""
) -> list[InferenceRequest]:
    """Convert an embedding request into one request per text.

    Raises:
        InvalidRequestError: The engine cannot process a text.
    """
    return [
        InferenceRequest(
            model_id=model_id,
            prompt=_checked(text, "input"),
            max_tokens=1,
            sampling=_UNUSED,
            request_id=request_id,
            client=client,
            embed=True,
        )
        for text in asked.texts()
    ]


def rank_requests(
    asked: RerankRequest, model_id: str, request_id: str, client: str = ""
) -> list[InferenceRequest]:
    """Convert a rerank request into one request per document.

    Raises:
        InvalidRequestError: The engine cannot process a text.
    """
    query = {"role": "query", "content": without_nul(asked.query, "query")}
    return [
        InferenceRequest(
            model_id=model_id,
            prompt=Chat(
                (query, {"role": "document", "content": without_nul(text, f"documents[{number}]")})
            ),
            max_tokens=1,
            sampling=_UNUSED,
            request_id=request_id,
            client=client,
            embed=True,
        )
        for number, text in enumerate(asked.texts())
    ]


def token_request(
    prompt: Prompt, model_id: str, request_id: str, client: str = ""
) -> InferenceRequest:
    """Return the request for a prompt's tokens and text."""
    return InferenceRequest(
        model_id=model_id,
        prompt=prompt,
        max_tokens=1,
        sampling=_UNUSED,
        request_id=request_id,
        client=client,
        tokenize=True,
    )


def tokenize_prompt(asked: TokenizeRequest) -> Prompt:
    """Return the prompt whose tokens are asked for.

    Raises:
        InvalidRequestError: The engine cannot process it.
    """
    chat = asked.chat()
    return without_nul(asked.text, "prompt") if chat is None else chat_prompt(chat)


def chat_prompt(asked: ChatRequest) -> Chat:
    """Return a chat as its template gets it.

    Raises:
        InvalidRequestError: The engine cannot process a message.
    """
    turns = tuple(_turn(message, number) for number, message in enumerate(asked.messages))
    chat = Chat(turns, asked.template_options, described_tools(asked))
    _check_portable(chat, "messages")
    return chat


_UNUSED: Final = Sampling(temperature=0, top_k=1, top_p=1, repetition_penalty=1, seed=0)


def _text_requests(
    asked: TextRequest, prompts: Iterable[Prompt], model_id: str, request_id: str, client: str
) -> list[InferenceRequest]:
    sampling = asked.sampling()
    return [
        InferenceRequest(
            model_id=model_id,
            prompt=prompt,
            max_tokens=asked.output_limit,
            sampling=_numbered(asked, sampling, number),
            stops=asked.stops(),
            stop_tokens=tuple(asked.stop_token_ids or ()),
            min_tokens=asked.min_tokens or 0,
            logprobs=asked.likeliest,
            echo=asked.echoes,
            echo_only=asked.echoes and asked.max_tokens == 0,
            ignore_end=bool(asked.ignore_eos),
            streamed=bool(asked.stream),
            request_id=request_id,
            client=client,
        )
        for prompt in prompts
        for number in range(asked.answers)
    ]


def _numbered(asked: TextRequest, sampling: Sampling, number: int) -> Sampling:
    """Return the settings of the answer with this number, with what of them was sent."""
    own = _with_seed(sampling, sampling.seed + number)
    sent = {name: getattr(asked, name, None) for name in _DECIDING}
    if asked.seed is not None:
        sent["seed"] = own.seed
    given = {name: _plain(value) for name, value in sent.items() if value is not None}
    return msgspec.structs.replace(own, asked=given)


def _plain(value: Any) -> Any:
    """Return a field as it was sent, without what was left out of its object."""
    if not isinstance(value, msgspec.Struct):
        return value
    fields = msgspec.structs.asdict(value)
    return {name: _plain(field) for name, field in fields.items() if field is not None}


def _with_seed(sampling: Sampling, seed: int) -> Sampling:
    """Return the settings with another seed, which begins again at the lowest after the highest."""
    within = (seed + _SEEDS // 2) % _SEEDS - _SEEDS // 2
    return msgspec.structs.replace(sampling, seed=within)


def _turn(message: Message, number: int) -> Turn:
    """Return a message as templates know it: OpenAI's `developer` role is their `system`."""
    role = "system" if message.role == "developer" else message.role
    where = f"messages[{number}]"
    turn: Turn = {"role": role, "content": message.text}
    optional = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content or message.reasoning,
        "tool_calls": [_call(call, where) for call in message.tool_calls or ()] or None,
    }
    turn |= {name: value for name, value in optional.items() if value is not None}
    for name, value in turn.items():
        if isinstance(value, str):
            without_nul(value, f"{where}.{name}")
    return turn


def _check_portable(value: object, parameter: str) -> None:
    """Check that a value can be sent to an engine or another node.

    Raises:
        InvalidRequestError: It has a number of more than 64 bits, or is nested too deeply.
    """
    try:
        _portable.encode(value)
    except (OverflowError, RecursionError) as error:
        message = "a whole number in the tools, schema or options does not fit in 64 bits"
        if isinstance(error, RecursionError):
            message = "the tools, schema or options are nested too deeply"
        raise InvalidRequestError(message, parameter=parameter) from error


def _call(call: ToolCall, where: str) -> dict[str, Any]:
    """Return a call as templates know it, with its arguments as an object.

    Raises:
        InvalidRequestError: The arguments are not a JSON object.
    """
    parameter = f"{where}.tool_calls"
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except msgspec.MsgspecError as error:
        message = f"the arguments of {call.function.name} in `{parameter}` are not a JSON object"
        raise InvalidRequestError(message, parameter=parameter) from error
    function = {"name": without_nul(call.function.name, parameter), "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _checked(prompt: str | tuple[int, ...], parameter: str) -> str | tuple[int, ...]:
    return without_nul(prompt, parameter) if isinstance(prompt, str) else prompt


def without_nul(text: str, parameter: str) -> str:
    """Return the text unchanged.

    Raises:
        InvalidRequestError: It contains a NUL, at which the engine's library would silently end it.
    """
    if "\0" in text:
        message = f"`{parameter}` contains a NUL character: remove it"
        raise InvalidRequestError(message, parameter=parameter)
    return text
