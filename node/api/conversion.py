"""Turns what a caller asked for into what the scheduler takes, whichever protocol it came by.

`client` says for whom a request waits its turn: an API key's digest, else an address.
"""

from typing import Final

from node.api.chat import render_chat
from node.api.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from node.engine.protocol import Described, Sampling
from node.errors import InvalidRequestError
from node.inference.generation import InferenceRequest


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
        control_tokens=False,
        max_tokens=asked.output_limit,
        sampling=asked.sampling(),
        stops=asked.stops(),
        streamed=bool(asked.stream),
        request_id=request_id,
        client=client,
    )


def chat_request(
    asked: ChatRequest, described: Described, model_id: str, request_id: str, client: str = ""
) -> InferenceRequest:
    """Convert a chat, written as the prompt that the described model was trained on.

    Raises:
        InvalidRequestError: The model's template refuses the messages, or the engine cannot take
            the prompt.
    """
    prompt = render_chat(described.chat_template, asked.messages, described.bos, described.eos)
    return InferenceRequest(
        model_id=model_id,
        prompt=without_nul(prompt, "messages"),
        control_tokens=True,
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
            control_tokens=False,
            max_tokens=1,
            sampling=_UNUSED,
            request_id=request_id,
            client=client,
            embed=True,
        )
        for text in asked.texts()
    ]


_UNUSED: Final = Sampling(temperature=0, top_k=1, top_p=1, repetition_penalty=1, seed=0)


def without_nul(text: str, parameter: str) -> str:
    """Give the text back.

    Raises:
        InvalidRequestError: It holds a NUL, where the engine's library would end it, silently.
    """
    if "\0" in text:
        raise InvalidRequestError("text cannot hold a NUL character", parameter=parameter)
    return text
