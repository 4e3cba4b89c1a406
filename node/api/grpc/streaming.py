"""Reads the answers of one streaming call as messages; several answers mix as they arrive."""

from collections.abc import AsyncIterator

import trio

from node.api.batch import Admit, Batch
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.grpc.messages import StreamWriter
from node.errors import RequestError
from node.requests.answer import Answer, Ending
from node.requests.request import InferenceRequest

_Messages = list[pb.GenerateStreamResponse]
_Sent = trio.MemorySendChannel[_Messages | RequestError]


async def read_one(
    answer: Answer, writer: StreamWriter
) -> AsyncIterator[pb.GenerateStreamResponse]:
    """Yield the messages of one answer.

    Raises:
        RequestError: The answer ended in an error.
    """
    is_over = False
    while not is_over:
        messages, is_over = await _step(0, answer, writer)
        for message in messages:
            yield message


async def read_several(
    wanted: list[InferenceRequest], admit: Admit, writer: StreamWriter, nursery: trio.Nursery
) -> AsyncIterator[pb.GenerateStreamResponse]:
    """Yield the messages of several answers.

    Args:
        wanted: The requests.
        admit: Admits one of them.
        writer: Writes the messages.
        nursery: Runs the readers; it ends with the call.

    Raises:
        RequestError: An answer ended in an error; the others were cancelled.
    """
    send, receive = trio.open_memory_channel[_Messages | RequestError](0)
    nursery.start_soon(_read, Batch(wanted, admit), writer, send, name="batch")
    with receive:
        async for received in receive:
            if isinstance(received, RequestError):
                raise received
            for message in received:
                yield message


async def _read(batch: Batch, writer: StreamWriter, send: _Sent) -> None:
    async def read(number: int, answer: Answer) -> None:
        is_over = False
        while not is_over:
            messages, is_over = await _step(number, answer, writer)
            await send.send(messages)

    with send:
        try:
            await batch.run(read)
        except RequestError as error:
            await send.send(error)


async def _step(number: int, answer: Answer, writer: StreamWriter) -> tuple[_Messages, bool]:
    """Wait for an answer's next pieces or its end. Return the messages, and whether it ended.

    Several tokens come at once if they are available.
    """
    received = await answer.receive_several()
    if isinstance(received, Ending):
        return writer.ending(number, answer, received), True
    return writer.pieces(number, answer, received), False
