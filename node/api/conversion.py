"""Converts a caller's request, from either protocol, into the scheduler's request.

`client` identifies the client that takes turns in the queue: the digest of its API key, else its
address.
"""

from typing import Final

from node.api.schema import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from node.errors import InvalidRequestError
from node.requests.request import InferenceRequest, Sampling, Turn


def completion_request(
    asked: CompletionRequest, model_id: str, request_id: str, client: str = ""
) -> InferenceRequest:
    """Convert a completion request.

    Raises:
        InvalidRequestError: The engine cannot process the prompt.
    """
    return InferenceRequest(
        model_id=model_id,
        prompt=without_nul(asked.text, "prompt"),
        max_tokens=asked.output_limit,
        sampling=asked.sampling(),
        stops=asked.stops(),
        streamed=bool(asked.stream),
        request_id=request_id,
        client=client,
    )


def chat_request(
    asked: ChatRequest, model_id: str, request_id: str, client: str = ""
) -> InferenceRequest:
    """Convert a chat. The node that has the model renders it with the model's template.

    A final assistant message stays last, and the answer continues it.

    Raises:
        InvalidRequestError: The engine cannot process a message.
    """
    return InferenceRequest(
        model_id=model_id,
        prompt=tuple(_turn(message, number) for number, message in enumerate(asked.messages)),
        max_tokens=asked.output_limit,
        sampling=asked.sampling(),
        stops=asked.stops(),
        streamed=bool(asked.stream),
        request_id=request_id,
        client=client,
    )


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
            prompt=without_nul(text, "input"),
            max_tokens=1,
            sampling=_UNUSED,
            request_id=request_id,
            client=client,
            embed=True,
        )
        for text in asked.texts()
    ]


_UNUSED: Final = Sampling(temperature=0, top_k=1, top_p=1, repetition_penalty=1, seed=0)


def _turn(message: Message, number: int) -> Turn:
    """Return a message as templates know it: OpenAI's `developer` role is their `system`."""
    role = "system" if message.role == "developer" else message.role
    where = f"messages[{number}]"
    turn = {"role": role, "content": without_nul(message.text, f"{where}.content")}
    if message.name is None:
        return turn
    return turn | {"name": without_nul(message.name, f"{where}.name")}


def without_nul(text: str, parameter: str) -> str:
    """Return the text unchanged.

    Raises:
        InvalidRequestError: It contains a NUL, at which the engine's library would silently end it.
    """
    if "\0" in text:
        message = f"`{parameter}` contains a NUL character: remove it"
        raise InvalidRequestError(message, parameter=parameter)
    return text
