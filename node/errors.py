"""The errors of a node, ordered by whose fault they are; each request error has an HTTP status."""

import math
from collections.abc import Mapping
from typing import ClassVar, Final, Self

from shared.events.requests import ErrorReason

_REASONS: Final[Mapping[str | None, ErrorReason]] = {
    None: "internal",
    "engine_failed": "engine",
    "insufficient_memory": "memory",
    "model_unloaded": "stopped",
    "other_model": "peer",
    "stopped": "stopped",
    "unavailable": "engine",
}
"""Why a request failed, by the error's code. A peer's codes say the same as this node's."""


class NodeError(Exception):
    """Base of all errors that the node raises on purpose; the text is one line for a person."""


class StartupError(NodeError):
    """The node cannot start: the text names the cause and the remedy. Exit code 1."""


class RequestError(NodeError):
    """A request ended without its answer.

    `kind` and `code` are the values of OpenAI's error object; `parameter` is the field at fault.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code or self.code
        self.retry_after_seconds = retry_after_seconds
        """Seconds after which a retry may succeed; None if a retry does not help."""

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers for the error."""
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(math.ceil(self.retry_after_seconds))}

    def fresh(self) -> Self:
        """Return a new error like this one, for another request.

        An error that is raised a second time would keep the frames of the first request alive.
        """
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__)
        return copy

    @property
    def reason(self) -> ErrorReason:
        """Why the request failed, if this error counts as a failure of the service."""
        return _REASONS.get(self.code, "other")

    @property
    def others_may_answer(self) -> bool:
        """Whether another node may still answer: the fault lies in this node and is temporary."""
        return self.status in (429, 503)


class InvalidRequestError(RequestError):
    """The request is malformed or asks for something unsupported."""

    status = 400
    kind = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class UnauthorizedError(RequestError):
    """The caller sent no credentials, or invalid ones."""

    status = 401
    kind = "invalid_request_error"
    code = "unauthorized"


class MissingKeyError(UnauthorizedError):
    """The caller sent no API key."""

    code = "missing_api_key"

    def __init__(self) -> None:
        super().__init__("no API key was sent: send `Authorization: Bearer <key>`")

    def headers(self) -> dict[str, str]:
        """Return the challenge (RFC 6750, section 3)."""
        return {"WWW-Authenticate": "Bearer"}


class WrongKeyError(UnauthorizedError):
    """The caller sent an API key that this node does not accept."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("the API key is wrong: it is not, or no longer, a key of this node")

    def headers(self) -> dict[str, str]:
        """Return the challenge, which says that a key was sent."""
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class ModelNotFoundError(RequestError):
    """The caller named a model that is not served here."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"


class QueueFullError(RequestError):
    """The model's queue is full."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class DeadlineExceededError(RequestError):
    """The request was not completed in time."""

    status = 504
    kind = "server_error"
    code = "deadline_exceeded"


class InsufficientMemoryError(RequestError):
    """The model does not fit in the memory that loaded models leave."""

    status = 503
    kind = "server_error"
    code = "insufficient_memory"


class HeldElsewhereError(RequestError):
    """The model does not fit here, and another node serves it: requests go there."""

    status = 503
    kind = "server_error"
    code = "held_elsewhere"


class EngineFailedError(RequestError):
    """The engine died or was stopped during the request."""

    status = 500
    kind = "server_error"
    code = "engine_failed"


class UnavailableError(RequestError):
    """The node accepts no requests: it is stopping, or its engine does not start."""

    status = 503
    kind = "server_error"
    code = "unavailable"


class StoppingError(UnavailableError):
    """The node is being stopped."""

    @property
    def reason(self) -> ErrorReason:
        """Not the engine, which the code alone would say."""
        return "stopped"


class NodeLostError(UnavailableError):
    """The other nodes that had the request, or could have had it, are lost."""

    @property
    def reason(self) -> ErrorReason:
        """Not the engine, which the code alone would say."""
        return "peer"


class OtherModelError(RequestError):
    """Another node began the answer with other weights than this node has for the model."""

    status = 503
    kind = "server_error"
    code = "other_model"

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"{model_id} has other weights here than on the node that began the answer"
        )
