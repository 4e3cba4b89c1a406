"""What ends an answer besides the model: stop texts, stop tokens, and a least number of tokens."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.errors import DeadlineExceededError
from node.requests.answer import Answer, Ending
from node.requests.request import InferenceRequest, Sampling, Token


def answer(prior: tuple[Token, ...] = (), **ends: Any) -> Answer:
    request = InferenceRequest(
        model_id="m",
        prompt="p",
        max_tokens=0,
        sampling=Sampling(0, 1, 1, 1, 1),
        prior=prior,
        **ends,
    )
    return Answer(request)


async def read(opened: Answer, text: str) -> tuple[str, Ending | None]:
    """Draw a token for each letter; return what the caller reads."""
    for letter in text:
        if not opened.over.is_set():
            opened.take(Token(ord(letter), letter.encode()), trio.current_time())
    received = await opened.receive_several()
    deltas = () if isinstance(received, Ending) else received
    return "".join(delta.text for delta in deltas), opened.ending


@trio_test
async def test_stop_token_ends_the_answer_and_is_not_shown() -> None:
    """A stop token counts as drawn, but its text is not part of the answer."""
    shown, ending = await read(answer(stop_tokens=(ord("c"), ord("x"))), "abcd")
    assert shown == "ab"
    assert ending == Ending("stop", 0, 0, 3)


@pytest.mark.parametrize("ends", [{"stops": ("b",)}, {"stop_tokens": (ord("b"),)}])
@trio_test
async def test_nothing_stops_an_answer_that_is_too_short(ends: dict[str, Any]) -> None:
    """Stops among the first tokens are text; later ones end the answer."""
    shown, ending = await read(answer(min_tokens=3, **ends), "abbabc")
    assert shown == "abba"
    assert ending == Ending("stop", 0, 0, 5)


@trio_test
async def test_resumed_answer_counts_its_earlier_tokens() -> None:
    """Tokens that another node drew count towards the least number, and stay text."""
    prior = (Token(ord("b"), b"b"), Token(ord("b"), b"b"))
    opened = answer(prior, stop_tokens=(ord("b"),), min_tokens=2)
    shown, ending = await read(opened, "ab")
    assert shown == "a"
    assert ending == Ending("stop", 0, 0, 4)


@trio_test
async def test_stop_text_is_found_across_the_least_number_of_tokens() -> None:
    """Only text after the first tokens is searched for a stop sequence."""
    opened = answer(stops=("ab",), min_tokens=1)
    first = await read(opened, "abab")
    assert first == ("ab", Ending("stop", 0, 0, 4))


@pytest.mark.parametrize("is_watch_lost", [False, True])
@trio_test
async def test_deadline_ends_a_silent_answer(
    autojump_clock: MockClock, *, is_watch_lost: bool
) -> None:
    """A reader that waits learns of the deadline, also if the task that watches it ends early."""
    del autojump_clock
    opened = answer(deadline_seconds=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.watch)
        nursery.start_soon(_lose, nursery.cancel_scope, 1 if is_watch_lost else 6)
        await wait_all_tasks_blocked()
        with trio.CancelScope(shield=True), pytest.raises(DeadlineExceededError):
            await opened.receive()
        assert trio.current_time() == pytest.approx(opened.admitted_at + 5)


async def _lose(watch: trio.CancelScope, seconds: float) -> None:
    await trio.sleep(seconds)
    watch.cancel()
