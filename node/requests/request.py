"""What a caller wants of a model, whichever protocol it came by: plain values, no Trio."""

from dataclasses import dataclass
from typing import Literal

import msgspec

Turn = dict[str, str]
"""One turn of a chat: its `role` and `content`, perhaps a `name`."""
Prompt = str | tuple[Turn, ...]
"""Text as it is, or a chat for the model's template to write. A chat whose last turn is the
assistant's is continued from there."""
EndReason = Literal["stop", "length", "cancelled", "too_long", "refused", "no_template"]
"""Why an engine is done with a request; the last three are faults of the prompt."""


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is drawn."""

    temperature: float
    """0 takes the likeliest token."""
    top_k: int
    top_p: float
    repetition_penalty: float
    """1 is none."""
    seed: int
    """Each token's draw depends on this and the token's position alone."""


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One token of an answer: its id in the model's vocabulary and the bytes that it stands for."""

    identity: int
    piece: bytes


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """What a caller wants, validated."""

    model_id: str
    prompt: Prompt
    max_tokens: int
    """0 for as many as the context holds."""
    sampling: Sampling
    stops: tuple[str, ...] = ()
    streamed: bool = False
    request_id: str = ""
    """Names the request in answers and exemplars."""
    client: str = ""
    """Who asks: requests of one client wait behind each other, not before those of others."""
    deadline_seconds: float | None = None
    """How long the whole answer may take from its admission; None for no limit."""
    embed: bool = False
    """Return the prompt's vector instead of a text."""
    forwarded: bool = False
    """Another node asks for its caller: it wants the tokens themselves, and this node does not
    forward the request again."""
    prior: tuple[Token, ...] = ()
    """What another node had generated of the answer when it was lost."""
    fingerprint: str = ""
    """Of the model's file that drew those tokens; empty where it is not known."""
    only_if_free: bool = False
    """Refuse the request unless an engine can begin with it now: it has a place in a queue
    elsewhere."""
    waited_seconds: float = 0.0
    """How long the request waited on the node that forwards it."""


def is_other_model(one: str, another: str) -> bool:
    """Return whether two fingerprints are known and differ."""
    return "" not in (one, another) and one != another
