"""What the engine of a model does."""

from typing import Literal

from shared.events.event import Event

RestartReason = Literal["crashed", "stalled"]


class EngineRestarted(Event, frozen=True, tag=10):
    """An engine child was replaced by a new one."""

    model_id: str
    reason: RestartReason


class EngineProgressed(Event, frozen=True, tag=12):
    """When the engine last completed a prompt chunk or a token. A level."""

    model_id: str
    at: float
    """Unix time in seconds, by the node's clock; 0 before the first."""
    silent_seconds: float = 0.0
    """Seconds that the current work has made no progress; 0 without work."""


class EngineSampled(Event, frozen=True, tag=29):
    """What an engine works on and holds: emit once a second while its model is loaded.

    What an engine does not report is None and has no series. The newest sample is a level, but it
    is not sent again on request, because each one is also an observation.
    """

    model_id: str
    decoding: int | None = None
    """Sequences whose next token the newest step computed together; 0 if none is decoded."""
    context_used: int | None = None
    """Tokens of the requests in work, over all slots."""
    context_held: int | None = None
    """Tokens in all slots, including those kept of ended requests for the next prompts."""
    context_capacity: int | None = None
    """Tokens that fit in all slots together."""


class TokensSpeculated(Event, frozen=True, tag=30):
    """Tokens that an engine drafted for a request; emit when the engine reports them.

    Most engines do so at the end of the request, and only with a draft model.
    """

    model_id: str
    drafted: int
    accepted: int
    """How many of them the model itself would have drawn: they cost no step of their own."""
