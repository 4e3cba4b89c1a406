"""Waits for the answers to a caller's requests, for every protocol."""

from node.api.batch import Admit, Batch
from node.api.parts.listening import Read, listen
from node.api.parts.part import Said
from node.api.request_id import read_whole
from node.errors import InvalidRequestError
from node.requests.answer import Answer, Delta, Ending
from node.requests.request import InferenceRequest

Whole = tuple[Said, Answer, Ending]
"""What an answer says, the answer itself, and its ending."""
Vector = tuple[float, ...]
Shown = tuple[tuple[int, ...], str]
"""A prompt's tokens and its text."""


async def read_all(wanted: list[InferenceRequest], admit: Admit, read: Read) -> list[Whole]:
    """Wait for the ends of all answers. Return them in order.

    Args:
        wanted: The requests.
        admit: Admits one of them.
        read: Returns what reads the parts of an answer.

    Raises:
        RequestError: A request failed.
    """
    wholes: dict[int, Whole] = {}

    async def keep(number: int, answer: Answer) -> None:
        deltas: list[Delta] = []
        while isinstance(received := await answer.receive(), Delta):
            deltas.append(received)
        wholes[number] = listen(read(answer), deltas), answer, received

    await Batch(wanted, admit).run(keep)
    return [wholes[number] for number in range(len(wanted))]


async def read_vectors(wanted: list[InferenceRequest], admit: Admit) -> tuple[list[Vector], int]:
    """Wait for the vectors of all prompts. Return them in order, and the number of tokens.

    Raises:
        InvalidRequestError: The model does not support embeddings.
        RequestError: A request failed.
    """
    vectors, tokens = await _read_vectors(wanted, admit)
    if not all(vectors):
        message = f"{wanted[0].model_id} does not support embeddings"
        raise InvalidRequestError(message, parameter="model")
    return vectors, tokens


async def read_scores(wanted: list[InferenceRequest], admit: Admit) -> tuple[list[float], int]:
    """Wait for the scores of all documents. Return them in order, and the number of tokens.

    Raises:
        InvalidRequestError: The model does not rerank.
        RequestError: A request failed.
    """
    vectors, tokens = await _read_vectors(wanted, admit)
    if any(len(vector) != 1 for vector in vectors):  # the vectors of an embedding model
        message = f"{wanted[0].model_id} does not rerank: name a reranking model"
        raise InvalidRequestError(message, parameter="model")
    return [score for (score,) in vectors], tokens


async def read_prompt(wanted: InferenceRequest, admit: Admit) -> Shown:
    """Wait for a prompt's tokens and its text, as the model gets it.

    Raises:
        RequestError: The model cannot be asked, or refuses the prompt.
    """
    shown: list[Shown] = []

    async def keep(_: int, answer: Answer) -> None:
        await read_whole(answer)
        shown.append(answer.prompt)

    await Batch([wanted], admit).run(keep)
    return shown[0]


async def _read_vectors(wanted: list[InferenceRequest], admit: Admit) -> tuple[list[Vector], int]:
    read: dict[int, tuple[Vector, Ending]] = {}

    async def keep(number: int, answer: Answer) -> None:
        _, ending = await read_whole(answer)
        read[number] = answer.vector, ending

    await Batch(wanted, admit).run(keep)
    vectors = [read[number][0] for number in range(len(wanted))]
    return vectors, sum(ending.prompt_tokens for _, ending in read.values())
