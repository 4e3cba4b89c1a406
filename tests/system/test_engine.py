"""The engine child over its pipes."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ctransformers.lib import find_library

from node.demo import MODEL_PATH
from node.engine import protocol
from node.engine.ctransformers.header import read_header
from node.engine.ctransformers.library import CTransformersEngine, _build
from node.engine.protocol import (
    Cancel,
    Evaluated,
    Finished,
    Generate,
    Load,
    Sampled,
)
from node.engine.vocabulary import Vocabulary
from node.requests.request import Sampling

GREEDY = Sampling(temperature=0.0, top_k=1, top_p=1.0, repetition_penalty=1.0, seed=0)


class Child:
    """A child with its model loaded, driven one message at a time."""

    def __init__(self, model: Path, batch_tokens: int = 64) -> None:
        self._results, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "node.engine.ctransformers.child", str(write_end)],
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        self._received = self._messages()
        length = read_header(model).described.context_length
        self.send(Load(os.fsencode(model), length, 1, batch_tokens))
        *self.progress, last = self._until(protocol.Loaded)
        assert isinstance(last, protocol.Loaded)

    def send(self, *commands: protocol.Command) -> None:
        """Write commands at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(map(protocol.frame, commands)))
        self.process.stdin.flush()

    def receive(self) -> protocol.Result:
        """Wait for the next result."""
        return next(self._received)

    def until_finished(self) -> list[protocol.Result]:
        """Collect results until the request's end."""
        return self._until(Finished)

    def _until(self, kind: type[protocol.Result]) -> list[protocol.Result]:
        results = [self.receive()]
        while not isinstance(results[-1], kind):
            results.append(self.receive())
        return results

    def drain(self) -> None:
        """Discard waiting results; the child is stopped meanwhile."""
        while select.select([self._results], [], [], 0.05)[0]:
            next(self._received)

    def _messages(self) -> Iterator[protocol.Result]:
        reader = protocol.FrameReader()
        while received := os.read(self._results, 65536):
            yield from map(protocol.result_decoder.decode, reader.feed(received))

    def close(self) -> None:
        """Close the child's input, as a node's death does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=20) == 0
        os.close(self._results)


@pytest.fixture
def slow(slow_model: Path) -> Iterator[Child]:
    """A child with the slow model and small prompt chunks."""
    child = Child(slow_model, batch_tokens=8)
    yield child
    child.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[Child]:
    """A child with the demo model."""
    child = Child(MODEL_PATH)
    yield child
    child.close()


def test_cancel_stops_within_one_token_step(slow: Child) -> None:
    """After a cancel at most two more tokens come: one in progress, one drawn before it."""
    slow.send(Generate(1, "one two", 1000, GREEDY))
    while not isinstance(slow.receive(), Sampled):
        pass
    slow.process.send_signal(signal.SIGSTOP)  # nothing is drawn between the look and the cancel
    slow.drain()
    slow.send(Cancel(1))
    slow.process.send_signal(signal.SIGCONT)
    *tokens, end = slow.until_finished()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert len(tokens) <= 2


def test_cancel_stops_a_prompt_between_chunks(slow: Child) -> None:
    """A long prompt reports progress in chunks and can be cancelled between them."""
    slow.send(Generate(1, "word " * 300, 10, GREEDY))
    first = slow.receive()
    assert isinstance(first, Evaluated)
    assert (first.done, first.cached) == (8, 0)
    slow.send(Cancel(1))
    *rest, end = slow.until_finished()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert all(isinstance(result, Evaluated) and result.done < first.total for result in rest)


def test_cancel_of_a_request_that_is_over_harms_no_other(demo: Child) -> None:
    """A cancel that crosses its request's end does not affect the next request."""
    demo.send(Generate(1, "Once", 2, GREEDY), Cancel(1), Cancel(1))
    demo.until_finished()
    demo.send(Cancel(1), Generate(2, "Once", 5, GREEDY))
    end = demo.until_finished()[-1]
    assert isinstance(end, Finished)
    assert (end.request, end.reason) == (2, "length")


def test_shared_prefix_is_not_evaluated_again(demo: Child) -> None:
    """A prompt with a known prefix evaluates only the rest, with the same answer."""
    texts = []
    for request, prompt in enumerate(("Once upon a time there", "Cats", "Once upon a time there")):
        demo.send(Generate(request, prompt, 12, GREEDY))
        texts.append(_text(demo.until_finished()))
    demo.send(Generate(9, "Once upon a time there", 12, GREEDY))
    results = demo.until_finished()
    first = results[0]
    assert isinstance(first, Evaluated)
    assert first.cached == first.total - 1
    assert _text(results) == texts[0] == texts[2]


def test_text_outside_the_vocabulary_is_safe(demo: Child) -> None:
    """Text outside the vocabulary does not corrupt the engine's memory.

    The library's own tokenize() writes past its buffer for such text.
    """
    for request, prompt in enumerate(("\N{PILE OF POO}" * 60, "   " * 60, "\x00\x01é中" * 20)):
        demo.send(Generate(request, prompt, 4, GREEDY))
        end = demo.until_finished()[-1]
        assert isinstance(end, Finished)
        assert end.reason in ("length", "stop", "too_long")


def test_prompt_longer_than_the_context_is_refused(demo: Child) -> None:
    """A prompt that leaves no room for an answer is refused with both numbers."""
    demo.send(Generate(1, "word " * 1000, 4, GREEDY))
    end = demo.receive()
    assert isinstance(end, Finished)
    assert end.reason == "too_long"
    assert "512" in end.message


def test_loading_tells_how_far_it_is(demo: Child) -> None:
    """The reported progress of a load grows to the size of the file."""
    done = [result.done_bytes for result in demo.progress if isinstance(result, protocol.Read)]
    assert done == sorted(done)
    assert done[-1] == MODEL_PATH.stat().st_size


SAMPLED = Sampling(temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=1.1, seed=5)


def test_results_do_not_depend_on_how_a_text_was_evaluated(slow_model: Path) -> None:
    """The logits are the same bit by bit for any chunks, and from the cache."""
    engine = CTransformersEngine(str(slow_model), 256, 1, Vocabulary())
    tokens = [300 + 37 * number % 3000 for number in range(75)]

    def weights(most: int, first: int = 0) -> list[float]:
        done = first
        while done < len(tokens):
            end = engine.chunk_end(done, len(tokens), most)
            engine.evaluate(tokens[done:end])
            done = end
        return list(engine._llm.logits)

    engine.rewind([0])
    alone = weights(1)
    for most, kept in ((64, 0), (8, 0), (16, 0), (31, 33), (64, 5), (32, 70)):
        rest = engine.rewind([*tokens[:kept], 0])
        assert rest == [0]
        assert weights(most, kept) == alone, (most, kept)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answer_goes_on_in_another_child_as_in_its_own(demo: Child, sampling: Sampling) -> None:
    """Another child continues an answer with the tokens that the first would have drawn."""
    command = Generate(1, "Once upon a time", 60, sampling)
    demo.send(command)
    whole = _tokens(demo.until_finished())
    other = Child(MODEL_PATH, batch_tokens=8)
    for kept in (0, 1, 7, 8, 30, len(whole) - 1, len(whole)):
        other.send(msgspec.structs.replace(command, prior=tuple(whole[:kept])))
        *results, end = other.until_finished()
        assert whole[:kept] + _tokens(results) == whole
        assert isinstance(end, Finished)
        assert end.reason in ("length", "stop")
    other.close()


def test_answer_ends_where_the_context_does(demo: Child) -> None:
    """Without a limit an answer ends by itself or at the end of the context."""
    demo.send(Generate(1, "Once " * 200, 0, GREEDY))
    results = demo.until_finished()
    evaluated = results[0]
    assert isinstance(evaluated, Evaluated)
    count = sum(isinstance(result, Sampled) for result in results)
    assert evaluated.total + count <= 512


def test_child_survives_the_terminals_signals(demo: Child) -> None:
    """The child ignores SIGINT and SIGTERM, which are for the node."""
    for number in (signal.SIGINT, signal.SIGTERM):
        demo.process.send_signal(number)
    demo.send(Generate(1, "Once", 3, GREEDY))
    assert isinstance(demo.until_finished()[-1], Finished)


def _tokens(results: list[protocol.Result]) -> list[int]:
    return [result.token for result in results if isinstance(result, Sampled)]


def _text(results: list[protocol.Result]) -> bytes:
    return b"".join(result.text for result in results if isinstance(result, Sampled))


def test_library_is_the_build_that_it_would_choose_itself() -> None:
    """The fast detection of CPU features gives the library's own result."""
    assert find_library(_build()) == find_library()
