"""Turns what a caller asked for into what the scheduler takes, whichever protocol it came by.

`client` says for whom a request waits its turn: an API key's digest, else an address.
"""

from typing import Final

from node.api.schema import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from node.engine.protocol import Sampling, Turn
from node.errors import InvalidRequestError
from node.requests.generation import InferenceRequest


def completion_request(
    asked: CompletionRequest, model_id: str, request_id: str, client: str = ""
) -> InferenceRequest:
    """Convert a request for a completion.

    Raises:
        InvalidRequestError: The prompt is one that the engine cannot take.
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
    """Convert a chat; the model's own template writes it as a prompt, where the model is.

    Raises:
        InvalidRequestError: A message is one that the engine cannot take.
    """
    return InferenceRequest(
        model_id=model_id,
        prompt=tuple(map(_turn, asked.messages)),
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
    """Convert a request for vectors, one for each of its texts.

    Raises:
        InvalidRequestError: A text is one that the engine cannot take.
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


def _turn(message: Message) -> Turn:
    """Give a message as templates know it: OpenAI's `developer` is their `system`."""
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": without_nul(message.text, "messages")}
    return turn if message.name is None else turn | {"name": without_nul(message.name, "messages")}


def without_nul(text: str, parameter: str) -> str:
    """Give the text back.

    Raises:
        InvalidRequestError: It holds a NUL, where the engine's library would end it, silently.
    """
    if "\0" in text:
        raise InvalidRequestError("text cannot hold a NUL character", parameter=parameter)
    return text
