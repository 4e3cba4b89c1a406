"""HTTP to an engine elsewhere; the only module of this room that imports the HTTP client."""

import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import msgspec
import trio

from node.engine.upstream.address import Address, is_loopback
from node.engine.upstream.errors import (
    MESSAGE,
    BrokenError,
    StatusError,
    UnreachableError,
    UpstreamError,
    read_message,
)
from node.errors import StartupError

_CONNECT_SECONDS: Final = 10.0
_CLOSING_SECONDS: Final = 1.0
_BODY_BYTES: Final = 64 * 2**20
"""No answer in one piece is longer: vectors have thousands of numbers, lists of models less."""
_FAILURE_BYTES: Final = 64 * 1024
_RETRY_DIGITS: Final = 5
"""A longer `Retry-After` is ignored."""

Pieces = AsyncIterator[bytes]

logging.getLogger(httpx2.__name__).setLevel(logging.WARNING)  # it would log every request


class UpstreamClient:
    """Asks one server. Each request has a connection of its own, which its end closes.

    A server that closed a kept connection would look like one that broke off.

    Args:
        address: Where the server is.
        key: The key that it requires; empty for none.
    """

    def __init__(self, address: Address, key: str) -> None:
        self._url = address.url
        self._key = key
        self._http = httpx2.AsyncClient(
            verify=trust(address),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=not is_loopback(urlsplit(address.url).hostname or ""),
        )

    async def close(self) -> None:
        """Close what is still open."""
        with trio.move_on_after(_CLOSING_SECONDS, shield=True):
            await self._http.aclose()

    def hide(self, text: str) -> str:
        """Return a text without the key, which a server may repeat."""
        return text.replace(self._key, "***") if self._key else text

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[Pieces]:
        """Yield the pieces of a streamed answer; leaving the block closes the connection.

        Raises:
            UpstreamError: The server cannot be reached, refuses, or breaks off; also while the
                pieces are read.
        """
        async with (
            self._open("POST", self._url + path, body) as response,
            aclosing(_pieces(response)) as pieces,
        ):
            yield pieces

    async def ask(self, path: str, body: Any = None, *, at_root: bool = False) -> bytes:
        """Return the body of a short answer; the method is GET without a body of its own.

        Args:
            path: The path below the server's URL.
            body: What to send as JSON.
            at_root: Whether the path is not below `/v1`, as with those that OpenAI has not.

        Raises:
            UpstreamError: As in `stream`.
        """
        base = self._url.removesuffix("/v1") if at_root else self._url
        encoded = None if body is None else msgspec.json.encode(body)
        async with self._open("GET" if body is None else "POST", base + path, encoded) as response:
            return await _read(response, _BODY_BYTES)

    @asynccontextmanager
    async def _open(
        self, method: str, url: str, body: bytes | None
    ) -> AsyncIterator[httpx2.Response]:
        headers = {"Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with _translated():
            async with self._http.stream(method, url, content=body, headers=headers) as response:
                if response.status_code != httpx2.codes.OK:
                    raise await _failure(response)
                yield response


def trust(address: Address) -> ssl.SSLContext:
    """Return the check of the server's certificate.

    Raises:
        StartupError: The file of CAs cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=address.ca_file)
    except OSError as error:
        raise StartupError(f"ca-file {address.ca_file}: {error}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the HTTP client's errors.

    Raises:
        UpstreamError: In place of any of them.
    """
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise UnreachableError(_line(error)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise BrokenError(_line(error)) from error


async def _pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    with _translated():
        async with aclosing(response.aiter_raw()) as pieces:
            async for received in pieces:
                yield received


async def _read(response: httpx2.Response, most_bytes: int) -> bytes:
    body = bytearray()
    async with aclosing(_pieces(response)) as pieces:
        async for received in pieces:
            body += received
            if len(body) > most_bytes:
                raise BrokenError(f"an answer of more than {most_bytes} bytes")
    return bytes(body)


async def _failure(response: httpx2.Response) -> UpstreamError:
    try:
        body = await _read(response, _FAILURE_BYTES)
    except BrokenError:
        body = b""
    after = response.headers.get("retry-after", "")
    is_number = after.isascii() and after.isdecimal() and len(after) <= _RETRY_DIGITS
    return StatusError(
        response.status_code, read_message(body), float(after) if is_number else None
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:MESSAGE] or type(error).__name__
