"""Asks another node over HTTP; the only module of this room that imports the HTTP client."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, Final

import httpx2
import msgspec
import trio

from node.errors import RequestError
from node.routing import wire
from node.routing.signature import Signer
from node.routing.trust import PeerTrust

_CONNECT_SECONDS: Final = 2.0
"""A peer is on a nearby network; if it takes longer to connect, another one is the better choice.
"""
_CLOSING_SECONDS: Final = 1.0
_REFUSAL_BYTES: Final = 64 * 1024
_RETRY_DIGITS: Final = 5
"""A longer `Retry-After` is ignored."""

_log = logging.getLogger(__name__)


class PeerLostError(Exception):
    """The peer cannot be reached, or broke off the answer."""


class PeerRefusedError(RequestError):
    """The peer answered with an error; `status` is its HTTP status, from 400 to 599."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None,
        retry: float | None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message, parameter=parameter, code=code, retry_after_seconds=retry)
        self.status = status  # type: ignore[misc]  # each refusal has its own
        self.kind = "server_error" if status >= 500 else "invalid_request_error"  # type: ignore[misc]


class PeerClient:
    """Connections to other nodes, kept for later requests.

    Args:
        signer: Authenticates this node.
        trust: Verifies their certificates.
    """

    def __init__(self, signer: Signer, trust: PeerTrust) -> None:
        self._signer = signer
        self._trust = trust

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep connections open while the block runs; peers can only be asked inside it."""
        self._client = httpx2.AsyncClient(
            verify=self._trust.context,
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,  # proxies are for the outside world, not for peers
        )
        try:
            yield
        finally:
            with trio.move_on_after(_CLOSING_SECONDS, shield=True):
                await self._client.aclose()

    @asynccontextmanager
    async def ask(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[wire.Frame]]:
        """Ask the node whose API is at `url`. Yields the frames of its answer.

        Args:
            url: URL of the node's API.
            body: The packed request.
            headers: Headers that name the request: its id and its place in a trace.

        Raises:
            PeerLostError: The peer cannot be reached, broke off or sent nonsense; also raised while
                frames are read.
            PeerRefusedError: The peer does not accept the request.
        """
        signed = {wire.SIGNATURE: self._signer.sign(body, time.time()), **headers}
        async with AsyncExitStack() as stack:
            with _lost(url):
                name = self._trust.name_of(httpx2.URL(url).host)
                response = await stack.enter_async_context(
                    self._client.stream(
                        "POST",
                        url + wire.PATH,
                        content=body,
                        headers=signed,
                        extensions={"sni_hostname": name},
                    )
                )
                if response.status_code != httpx2.codes.OK:
                    raise await _refusal(response)
            yield await stack.enter_async_context(aclosing(_frames(response, url)))


@contextmanager
def _lost(url: str) -> Iterator[None]:
    """Translate any error that a peer's address or answer causes in the HTTP client.

    Raises:
        PeerLostError: In place of that error.
    """
    try:
        yield
    except (PeerLostError, PeerRefusedError):
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
        raise PeerLostError(f"{url}: {error or type(error).__name__}") from error
    except Exception as error:
        _log.warning("asking %s failed unexpectedly", url, exc_info=error)
        raise PeerLostError(f"{url}: {type(error).__name__}: {error}") from error


async def _frames(response: httpx2.Response, url: str) -> AsyncGenerator[wire.Frame, None]:
    decoder = wire.FrameDecoder()
    with _lost(url):
        async with aclosing(response.aiter_raw()) as pieces:
            async for received in pieces:
                for frame in decoder.feed(received):
                    yield frame


async def _refusal(response: httpx2.Response) -> PeerRefusedError:
    status = response.status_code
    if not 400 <= status <= 599:
        raise PeerLostError(f"{response.url.host} answered {status}, which no node does")
    body = b""
    async with aclosing(response.aiter_raw()) as pieces:
        async for received in pieces:
            body += received
            if len(body) > _REFUSAL_BYTES:
                break
    told: Any = {}
    try:
        told = msgspec.json.decode(body)["error"]
        message, code = str(told["message"])[: wire.TEXT], told["code"]
        parameter = told.get("param")
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        message, code, parameter = f"the peer answered {status}", None, None
    after = response.headers.get("retry-after", "")
    is_number = after.isascii() and after.isdecimal() and len(after) <= _RETRY_DIGITS
    return PeerRefusedError(
        status,
        message,
        code if isinstance(code, str) else None,
        float(after) if is_number else None,
        parameter if isinstance(parameter, str) else None,
    )
