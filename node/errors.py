"""What can go wrong in a node, by whose fault it is; each request error knows its HTTP status."""

from typing import ClassVar


class NodeError(Exception):
    """Base of everything that the node raises on purpose; the text is one line for a person."""


class StartupError(NodeError):
    """The node cannot start here: the cause and the remedy. Exit code 1."""


class RequestError(NodeError):
    """A request that ends without its answer.

    `kind` and `code` are OpenAI's words for its error object, `parameter` the field at fault.
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
        """When to ask again, where that may help."""


class InvalidRequestError(RequestError):
    """The caller asked for something malformed or not supported."""

    status = 400
    kind = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class UnauthorizedError(RequestError):
    """The caller gave no API key, or one that is not known."""

    status = 401
    kind = "invalid_request_error"
    code = "invalid_api_key"


class ModelNotFoundError(RequestError):
    """The caller named a model that is not served here."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"


class QueueFullError(RequestError):
    """The model's queue holds as many requests as it may."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class DeadlineExceededError(RequestError):
    """The request was not done in the time that it had."""

    status = 504
    kind = "server_error"
    code = "deadline_exceeded"


class InsufficientMemoryError(RequestError):
    """There is no room for the model beside what is loaded."""

    status = 503
    kind = "server_error"
    code = "insufficient_memory"


class EngineFailedError(RequestError):
    """The engine died or was stopped while it had the request."""

    status = 500
    kind = "server_error"
    code = "engine_failed"


class UnavailableError(RequestError):
    """The node takes no requests: it is stopping, or its engine does not come up."""

    status = 503
    kind = "server_error"
    code = "unavailable"


class OtherModelError(RequestError):
    """An answer was begun with other weights than the model has here: no going on with it."""

    status = 503
    kind = "server_error"
    code = "other_model"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"what is {model_id} here is another model than the one that answered")
