"""Asks another node over HTTP; the only module that imports the HTTP client."""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec

from node.errors import RequestError
from node.routing import wire
from node.routing.signature import Signer

_CONNECT_SECONDS: Final = 2.0
"""A peer is on a network nearby; past this another one is the better choice."""
_REFUSAL_BYTES: Final = 64 * 1024


class PeerLostError(Exception):
    """The peer cannot be reached, or broke off in the middle."""


class PeerRefusedError(RequestError):
    """The peer answered with an error; `status` is the one that it gave."""

    def __init__(self, status: int, message: str, code: str | None, retry: float | None) -> None:
        super().__init__(message, code=code, retry_after_seconds=retry)
        self.status = status  # type: ignore[misc]  # each refusal has its own
        self.kind = "server_error" if status >= 500 else "invalid_request_error"  # type: ignore[misc]


class PeerClient:
    """Connections to other nodes, kept for the next question.

    Args:
        signer: Proves who asks.
        authorities: A file of the authorities that sign the nodes' certificates; those of the
            system if not given.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, signer: Signer, authorities: Path | None = None) -> None:
        self._signer = signer
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=authorities),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,  # a proxy for the world outside is none for peers
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @asynccontextmanager
    async def ask(
        self, url: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[wire.Frame]]:
        """Ask the node whose API is at `url`; gives the frames of its answer.

        Args:
            url: Of the node's API.
            body: The question.
            request_id: Names the request in the peer's answer and exemplars too.

        Raises:
            PeerLostError: It cannot be reached, or broke off; also while frames are read.
            PeerRefusedError: It does not take the request.
        """
        headers = {
            wire.SIGNATURE: self._signer.sign(body, time.time()),
            "X-Request-ID": request_id,
        }
        try:
            async with self._client.stream(
                "POST", url + wire.PATH, content=body, headers=headers
            ) as response:
                if response.status_code != httpx2.codes.OK:
                    raise await _refusal(response)
                yield _frames(response)
        except httpx2.HTTPError as error:
            raise PeerLostError(f"{url}: {error or type(error).__name__}") from error


async def _frames(response: httpx2.Response) -> AsyncIterator[wire.Frame]:
    decoder = wire.FrameDecoder()
    async for received in response.aiter_raw():
        try:
            frames = decoder.feed(received)
        except ValueError as error:
            raise PeerLostError(f"{response.url.host} speaks nonsense: {error}") from error
        for frame in frames:
            yield frame


async def _refusal(response: httpx2.Response) -> PeerRefusedError:
    body = b""
    async for received in response.aiter_raw():
        body += received
        if len(body) > _REFUSAL_BYTES:
            break
    told: Any = {}
    try:
        told = msgspec.json.decode(body)["error"]
        message, code = str(told["message"]), told["code"]
    except (msgspec.DecodeError, LookupError, TypeError):
        message, code = f"the peer answered {response.status_code}", None
    after = response.headers.get("retry-after", "")
    return PeerRefusedError(
        response.status_code,
        message,
        code if isinstance(code, str) else None,
        float(after) if after.isdecimal() else None,
    )
