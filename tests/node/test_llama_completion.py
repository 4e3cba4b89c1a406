"""llama-server's answers become the engine's results, however they are cut on the way.

The streams are recorded from llama-server.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import trio_test

from node.engine.llama_cpp.completion import completion_body, tokens_left
from node.engine.llama_cpp.completion_stream import Character, CompletionReader, spell
from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.replies import Failure, Piece, read_failure, refused
from node.engine.llama_cpp.scoring import CharacterDrawnError, CharacterWatch, Gate
from node.engine.llama_cpp.vectors import read_vector
from node.engine.protocol import Evaluated, Finished, Generate, Result, Sampled
from node.requests.request import Candidate, Likelihood, Sampling, Token

KNOWN = Likelihood(-0.5)
GREEDY = Sampling(0.0, 40, 0.95, 1.0, 7)

PROGRESS = (
    '{"index":0,"content":"","tokens":[0],"stop":false,"id_slot":-1,"tokens_predicted":0,'
    '"tokens_evaluated":55,"prompt_progress":{"total":55,"cache":3,"processed":51,"time_ms":271}}'
)
SPACE = (
    '{"index":0,"content":" ","tokens":[236743],"stop":false,"id_slot":-1,"tokens_predicted":1,'
    '"tokens_evaluated":55}'
)
GOTHIC = (
    '{"index":0,"content":"\N{GOTHIC LETTER LAGUS}","tokens":[425],"stop":false,"id_slot":-1,'
    '"tokens_predicted":5,"tokens_evaluated":55}'
)
SILENT = (
    '{"index":0,"content":"","tokens":[1],"stop":false,"id_slot":-1,"tokens_predicted":6,'
    '"tokens_evaluated":55}'
)
LIKELY = (
    '{"index":0,"content":" I","tokens":[564],"stop":false,"id_slot":-1,"tokens_predicted":1,'
    '"tokens_evaluated":2,"completion_probabilities":[{"id":564,"token":" I","bytes":[32,73],'
    '"logprob":-4.5,"top_logprobs":[{"id":428,"token":"\\ufffd","bytes":[190],"logprob":-1.25}]}]}'
)
AT_LIMIT = '{"content":"","tokens":[],"stop":true,"stop_type":"limit","tokens_predicted":12}'
AT_END = '{"content":"","tokens":[],"stop":true,"stop_type":"eos","tokens_predicted":6}'
TOO_LONG = (
    '{"error":{"code":400,"message":"request (1100 tokens) exceeds the available context size '
    '(1024 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":1100,'
    '"n_ctx":1024}}'
)
BROKEN = '{"error":{"code":500,"message":"Compute error.","type":"server_error"}}'


def stream(*events: str) -> bytes:
    """Return a stream of events, with the comment that llama-server sends to keep it open."""
    return b":\n\n" + b"".join(b"data: %b\n\n" % event.encode() for event in events)


def read(received: bytes, *, step: int) -> tuple[list[Result | Character], Finished | None]:
    reader = CompletionReader(9)
    found: list[Result | Character] = []
    for start in range(0, len(received), step):
        found += reader.feed(received[start : start + step])
    return found, reader.finished


@given(step=st.integers(1, 600))
def test_stream_is_read_in_pieces_of_any_size(step: int) -> None:
    """Prompt progress, tokens, a character of four tokens and the end arrive in their order."""
    found, finished = read(stream(PROGRESS, SPACE, GOTHIC, AT_LIMIT), step=step)
    assert found == [
        Evaluated(9, 51, 55, 3),
        Sampled(9, 236743, b" "),
        Character(9, 425, "\N{GOTHIC LETTER LAGUS}"),
    ]
    assert finished == Finished(9, "length", "")


def test_token_has_its_likelihood() -> None:
    """Its log-probability and the likeliest tokens, which may be parts of characters."""
    likelihood = Likelihood(-4.5, (Candidate(428, b"\xbe", -1.25),))
    assert read(stream(LIKELY), step=99)[0] == [Sampled(9, 564, b" I", likelihood)]


@trio_test
async def test_tokens_after_an_unknown_likelihood_wait_for_it() -> None:
    """They are passed on in their order once it is known; meanwhile the request progresses."""
    sent: list[Result] = []
    asked: list[tuple[list[int], int, int]] = []
    progress = Evaluated(9, 2, 2, 0)
    unknown, after = Sampled(9, 5, b"\xf0"), Sampled(9, 6, b"b", KNOWN)

    async def send(results: list[Result]) -> None:
        sent.extend(results)

    class Scorer:
        async def score(self, before: list[int], token: int, top: int) -> Token:
            asked.append((list(before), token, top))
            return Token(token, b"", KNOWN)

    gate = Gate(send, [1, 2])
    await gate.pass_on([progress, Sampled(9, 4, b"a", KNOWN), unknown, after])
    assert sent == [progress, Sampled(9, 4, b"a", KNOWN), progress, progress]
    del sent[:]
    await gate.finish(Scorer(), 3)
    assert sent == [Sampled(9, 5, b"\xf0", KNOWN), after]
    assert asked == [([1, 2, 4], 5, 3)]


@trio_test
async def test_character_of_several_tokens_is_told_at_once() -> None:
    """What precedes it is passed on; its tokens come apart, and what follows is drawn again."""
    sent: list[Result] = []
    before, after = Sampled(9, 4, b"a", KNOWN), Sampled(9, 7, b"b", KNOWN)
    parts = [Sampled(9, 5, b"\xc3"), Sampled(9, 6, b"\xa9")]

    async def send(results: list[Result]) -> None:
        sent.extend(results)

    watch = CharacterWatch(send, [3])
    await watch.pass_on([before])
    with pytest.raises(CharacterDrawnError) as drawn:
        await watch.pass_on([before, *parts, after])
    assert drawn.value.parts == parts
    assert sent == [before, before]
    assert watch.passed == [3, 4, 4]


def test_token_that_ends_the_answer_is_no_token_of_it() -> None:
    """A token without text is dropped if the answer ends with it, and kept otherwise."""
    assert read(stream(SPACE, SILENT, AT_END), step=999) == (
        [Sampled(9, 236743, b" ")],
        Finished(9, "stop", ""),
    )
    assert read(stream(SILENT, AT_LIMIT), step=999)[0] == [Sampled(9, 1, b"")]
    assert read(stream(SILENT, SPACE), step=999)[0][0] == Sampled(9, 1, b"")


def test_error_in_the_stream_ends_the_request() -> None:
    """The request's fault ends it; the server's fault is the end of the server."""
    _, finished = read(stream(SPACE, TOO_LONG), step=999)
    assert finished is not None
    assert finished.reason == "too_long"
    assert "1100 tokens" in finished.message
    with pytest.raises(EngineLostError, match="Compute error"):
        read(stream(BROKEN), step=999)


def test_stream_of_something_else_is_the_end_of_the_server() -> None:
    """What is not llama-server's protocol is not taken for an answer."""
    with pytest.raises(EngineLostError, match="invalid event"):
        CompletionReader(9).feed(b'data: {"tokens": "none"}\n')


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure("Prompt contains\ninvalid tokens", "invalid_request_error", 400), "refused"),
        (Failure("no embeddings", "not_supported_error", 501), "refused"),
        (Failure("too many", "exceed_context_size_error", 400), "too_long"),
        (Failure("input (9 tokens) is too large to process.", "server_error", 500), "too_long"),
    ],
)
def test_refusal_names_the_reason_in_one_line(failure: Failure, reason: str) -> None:
    """A request that llama-server refuses ends with its reason."""
    finished = refused(9, failure)
    assert finished.reason == reason
    assert "\n" not in finished.message


def test_failure_without_a_known_body_is_still_told() -> None:
    """The reason of a refusal is shown whatever its form."""
    assert read_failure(b"<h1>\xff</h1>").message == "<h1>\N{REPLACEMENT CHARACTER}</h1>"
    assert read_failure(TOO_LONG.encode()).type == "exceed_context_size_error"


def test_character_is_spelled_with_its_own_tokens() -> None:
    """Unreported tokens are those of the text, without a space that the tokenizer adds."""
    character = Character(9, 131, "\N{GRINNING FACE}")
    space, *octets = (Piece(259, " "), *(Piece(3 + byte, [byte]) for byte in b"\xf0\x9f\x98\x80"))
    expected = [Sampled(9, 3 + byte, bytes([byte])) for byte in b"\xf0\x9f\x98\x80"]
    assert spell(character, [space, *octets]) == expected
    assert spell(character, octets) == expected
    whole = [Sampled(9, 131, "\N{GRINNING FACE}".encode())]
    assert spell(character, [Piece(1, "another text")]) == whole
    assert spell(character, []) == whole


def test_continued_answer_has_random_numbers_of_its_own() -> None:
    """A seed repeats an answer, but what is continued is not drawn by the numbers of its start."""

    def seed(prior: int) -> int:
        command = Generate(9, "x", 10, GREEDY, (5,) * prior)
        body = completion_body(command, [1, 2, 3], 10, cached=True)
        return int(json.loads(body)["seed"])

    assert seed(0) == GREEDY.seed
    assert len({seed(prior) for prior in range(100)}) == 100


@pytest.mark.parametrize(
    ("max_tokens", "prior", "left"),
    [(0, (), 60), (0, (5, 6), 58), (10, (5, 6), 8), (100, (), 60), (2, (5, 6), 0)],
)
def test_tokens_left_count_those_already_drawn(
    max_tokens: int, prior: tuple[int, ...], left: int
) -> None:
    """An answer ends at its limit or at the context's, however often it was continued."""
    assert tokens_left(Generate(9, "x", max_tokens, GREEDY, prior), 40, 100) == left


def test_vector_is_that_of_the_whole_text() -> None:
    """One vector is read; vectors of each token, or none, are not taken for it."""
    assert read_vector(b'[{"index":0,"embedding":[[0.5,-1]]}]') == (0.5, -1.0)
    for body in (b'[{"index":0,"embedding":[[1],[2]]}]', b"[]", b"{}", b'[{"embedding":[1.0]}]'):
        with pytest.raises(EngineLostError):
            read_vector(body)
