"""Maps every node error to its gRPC status."""

import logging
import math
from typing import Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import Headers

from node.errors import RequestError

_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
"""By HTTP status, which every request error has, so that a new error needs no entry."""

_log = logging.getLogger(__name__)


def canonical(error: ConnectError | None) -> str:
    """Return gRPC's name of a call's status, in lower case."""
    if error is None:
        return "ok"
    return "cancelled" if error.code is Code.CANCELED else error.code.value


def as_connect_error(error: Exception) -> ConnectError:
    """Return the error for the caller. Details of internal errors go only to the log."""
    match error:
        case ConnectError():
            return error
        case RequestError():
            return ConnectError(_CODES.get(error.status, Code.INTERNAL), str(error))
    _log.error("a call failed because of an internal error", exc_info=error)
    return ConnectError(Code.INTERNAL, "internal error; see the node's log")


def describe(error: Exception, trailers: Headers) -> None:
    """Add the details that programs can use to the trailers."""
    if isinstance(error, RequestError):
        if error.code:
            trailers["error-code"] = error.code
        if error.retry_after_seconds is not None:
            trailers["retry-after"] = str(math.ceil(error.retry_after_seconds))
