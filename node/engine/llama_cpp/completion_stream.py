"""Reads the stream of a completion into the engine's results; no I/O."""

from typing import Final

import msgspec

from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.replies import Chunk, Piece, refused
from node.engine.protocol import Evaluated, Finished, Result, Sampled
from node.requests.request import EndReason

_decoder: Final = msgspec.json.Decoder(Chunk)


class Character(msgspec.Struct, frozen=True):
    """A text of a request's answer that took several tokens, of which only the last is known.

    llama-server holds tokens back until they end with a whole character.
    """

    request: int
    last_token: int
    text: str


class CompletionReader:
    """Turns the stream of one completion into results, in their order.

    Args:
        request: The request's identity.
    """

    def __init__(self, request: int) -> None:
        self._request = request
        self._drawn = 0
        self._rest = b""
        self._held: list[Result | Character] = []
        """A token without text, which may be the one that ends the answer."""
        self.finished: Finished | None = None
        """How the request ended, once the last event has come."""

    def feed(self, received: bytes) -> list[Result | Character]:
        """Return the results in received bytes; an incomplete line is kept for the next call.

        Raises:
            EngineLostError: The stream is not llama-server's, or reports a fault of the server.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        results: list[Result | Character] = []
        for line in lines:
            if line.startswith(b"data: "):
                self._read(line[6:], results)
        return results

    def _read(self, event: bytes, results: list[Result | Character]) -> None:
        try:
            chunk = _decoder.decode(event)
        except msgspec.DecodeError as error:
            raise EngineLostError(f"an invalid event: {error}") from error
        if chunk.error is not None:
            self.finished = refused(self._request, chunk.error)
        elif chunk.prompt_progress is not None:
            progress = chunk.prompt_progress
            results.append(
                Evaluated(self._request, progress.processed, progress.total, progress.cache)
            )
        elif chunk.stop:
            if chunk.stop_type != "eos":
                results.extend(self._held)
            self.finished = Finished(
                self._request,
                _end_reason(chunk.stop_type),
                "",
                chunk.timings.draft_n,
                chunk.timings.draft_n_accepted,
            )
        elif chunk.tokens:
            self._draw(chunk, results)

    def _draw(self, chunk: Chunk, results: list[Result | Character]) -> None:
        results.extend(self._held)
        self._held = []
        count = chunk.tokens_predicted - self._drawn
        self._drawn = chunk.tokens_predicted
        token = chunk.tokens[-1]
        if count > 1 and chunk.content:
            results.append(Character(self._request, token, chunk.content))
        else:
            held_or_sent = results if chunk.content else self._held
            likelihood = next((one.likelihood for one in chunk.completion_probabilities), None)
            text = chunk.content.encode()
            held_or_sent.append(Sampled(self._request, token, text, likelihood))


def spell(character: Character, pieces: list[Piece]) -> list[Result]:
    """Return the tokens of a text whose tokens were not all reported.

    Args:
        character: The text.
        pieces: Its tokens; the first may be a space that the tokenizer adds.
    """
    request, wanted = character.request, character.text.encode()
    for first in range(len(pieces)):
        if b"".join(piece.octets for piece in pieces[first:]) == wanted:
            return [Sampled(request, piece.id, piece.octets) for piece in pieces[first:]]
    return [Sampled(request, character.last_token, wanted)]


def _end_reason(stop_type: str) -> EndReason:
    return "length" if stop_type == "limit" else "stop"
