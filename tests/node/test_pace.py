"""A request's body must arrive in time, at any pace."""

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, trio_test

from node.api.edge.pace import BODY_SECONDS, keep_pace


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """Answer once the body has arrived; a client that left gets no answer."""
    del scope
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def answer_to(pauses: Iterable[float]) -> int:
    """Return the status for a body that arrives in pieces after these pauses."""
    sent: list[Any] = []
    coming = iter(pauses)

    async def receive() -> Any:
        pause = next(coming, None)
        await trio.sleep(pause or 0)
        return {"type": "http.request", "body": b"x", "more_body": pause is not None}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await keep_pace(read_all, reader_seconds=30.0)(scope, receive, send)
    (start,) = [message for message in sent if message["type"] == "http.response.start"]
    return int(start["status"])


@pytest.mark.parametrize(
    "pauses",
    [[2 * BODY_SECONDS], [1.0] * int(2 * BODY_SECONDS)],
    ids=["stops", "trickles"],
)
@trio_test
async def test_body_that_does_not_arrive_gets_408(
    autojump_clock: MockClock, pauses: list[float]
) -> None:
    """A body that does not arrive in time gets 408, even if it trickles."""
    del autojump_clock
    assert await answer_to(pauses) == 408


@trio_test
async def test_slow_body_in_time_is_answered(autojump_clock: MockClock) -> None:
    """A slow body that arrives in time is answered."""
    del autojump_clock
    assert await answer_to([BODY_SECONDS / 2 - 1] * 2) == 200
