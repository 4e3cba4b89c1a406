"""Responses of a node's API."""

from shared.events.event import Event


class HttpFinished(Event, frozen=True, tag=15):
    """An HTTP response was sent completely, or its client disconnected."""

    route: str
    """The route's template, never the requested path."""
    method: str
    status: int
    seconds: float


class RpcFinished(Event, frozen=True, tag=16):
    """A gRPC call ended, for any reason."""

    method: str
    """`package.Service/Method`, only for methods that the node implements."""
    code: str
    """The canonical status in lower case, such as `ok` or `deadline_exceeded`."""
    seconds: float
