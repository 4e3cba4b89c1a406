"""What a caller requests from a model, over any protocol: plain values, no Trio."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from node.requests.parts import Part, Words
from shared.events.requests import Operation
from shared.events.trace import TraceContext

Turn = dict[str, Any]
"""One turn of a chat as templates know it: its `role` and `content`, perhaps a `name`."""


class Chat(msgspec.Struct, frozen=True):
    """A chat that the model's template renders.

    A chat that ends with the assistant's turn is continued from there.
    """

    turns: tuple[Turn, ...]
    options: dict[str, Any] = {}
    """Further names for the template, such as `enable_thinking`."""
    tools: tuple[dict[str, Any], ...] = ()
    """The functions that the model may call, as OpenAI and templates describe them."""


Prompt = str | Chat | tuple[int, ...]
"""Plain text, a chat, or the ids of tokens."""
EndReason = Literal[
    "stop",
    "length",
    "cancelled",
    "parted",
    "failed",
    "too_long",
    "refused",
    "no_template",
    "unsupported",
]
"""Why an engine has finished a request. The last four are faults of the request; `parted` is an
answer that this engine cannot continue where another one was lost, `failed` one that no engine can
make until its operator changes something."""


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is drawn."""

    temperature: float
    """0 takes the most likely token."""
    top_k: int
    top_p: float
    repetition_penalty: float
    """1 means no penalty."""
    seed: int
    """Each token's draw depends only on this seed and the token's position."""
    min_p: float = 0.0
    """Leaves out tokens less likely than this share of the likeliest one."""
    typical_p: float = 1.0
    """Keeps the most typical tokens of this total likelihood; 1 keeps all."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens and what is added to their logits."""
    asked: dict[str, Any] = {}
    """What of this, and of the answer's form, the caller sent, in the fields of OpenAI's API: for
    an engine elsewhere, which has defaults of its own."""


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token that could stand at a position."""

    identity: int
    piece: bytes
    logprob: float
    """The natural logarithm of its probability by the model, before any way of drawing."""


class Likelihood(msgspec.Struct, frozen=True, array_like=True):
    """How likely a token was."""

    logprob: float
    top: tuple[Candidate, ...] = ()
    """The likeliest tokens at its position, the likeliest first."""


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer: its id in the model's vocabulary and its bytes."""

    identity: int
    piece: bytes
    likelihood: Likelihood | None = None
    """If the request asked for it, except for the first token of a prompt."""
    part: Part | None = None
    """What it adds to the answer, if the engine has read the parts of the answer itself; then there
    are no bytes."""

    @property
    def octets(self) -> bytes:
        """What it adds to the answer's text."""
        return self.part.text.encode() if isinstance(self.part, Words) else self.piece


UNKNOWN_TOKEN: Final = 2**31 - 1
"""The id of tokens of an engine elsewhere, which returns text only."""
ELSEWHERE: Final = "elsewhere"
"""The fingerprint of models whose weights this node cannot see: only such a model can continue an
answer whose tokens are unknown, and no other answer."""


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """A validated request."""

    model_id: str
    prompt: Prompt
    max_tokens: int
    """0 for as many as fit in the context."""
    sampling: Sampling
    stops: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    """Tokens that end the answer and are not part of its text."""
    min_tokens: int = 0
    """Tokens before which nothing ends the answer."""
    logprobs: int | None = None
    """Report each token's likelihood and this many of the likeliest tokens; None for neither."""
    echo: bool = False
    """Return the prompt's tokens as well, with their likelihoods if `logprobs` is set."""
    echo_only: bool = False
    """With `echo`: draw no token."""
    ignore_end: bool = False
    """Do not draw the tokens with which the model ends its answer."""
    streamed: bool = False
    request_id: str = ""
    """The request's id in answers and exemplars."""
    client: str = ""
    """The client. Requests of one client wait for each other and do not delay other clients'
    requests."""
    deadline_seconds: float | None = None
    """Limit for the whole answer from its admission, in seconds; None for no limit."""
    embed: bool = False
    """Return the prompt's vector instead of a text."""
    tokenize: bool = False
    """Return the prompt's tokens and text instead. Such a request is not counted as inference."""
    schema: dict[str, Any] | None = None
    """A JSON schema that the whole answer must match."""
    strict: tuple[str, ...] = ()
    """Functions that the model may call, but only with arguments that match their schemas."""
    forwarded: bool = False
    """Whether another node asks for its caller. It gets the tokens themselves, and this node does
    not forward the request again."""
    prior: tuple[Token, ...] = ()
    """What another node had generated of the answer before it was lost."""
    fingerprint: str = ""
    """The fingerprint of the model that drew those tokens; empty if unknown."""
    only_if_free: bool = False
    """Refuse the request unless an engine can begin it now, because it has a place in another
    queue."""
    waited_seconds: float = 0.0
    """How long the request waited on the node that forwards it."""
    route: str = ""
    """Route template or gRPC method by which it came from its caller."""
    trace: TraceContext | None = None
    """Its place in its caller's trace; in a forwarded request, the forward's own."""
    trace_state: str = ""
    """The caller's `tracestate`; empty without one."""

    @property
    def operation(self) -> Operation:
        """What it asks for."""
        if self.embed:
            return "embeddings"
        return "chat" if isinstance(self.prompt, Chat) else "text_completion"

    @property
    def credentials(self) -> str:
        """The client, if it is known by its key or its certificate and not only by its address."""
        return self.client if self.client.startswith(("key:", "certificate:")) else ""


def is_other_model(one: str, another: str) -> bool:
    """Return whether two fingerprints are known and differ."""
    return "" not in (one, another) and one != another
