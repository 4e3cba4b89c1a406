"""Opens a connection to a peer's API that leaves HTTP after its first request."""

import time
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from node.pipeline.messages import PATH, PROTOCOL
from node.pipeline.tunnel import Refusal, TunnelRefusedError
from node.routing import wire
from node.routing.client import PeerLostError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust

_ANSWER_SECONDS: Final = 2.5
"""For the connection, its TLS handshake and the response."""
_REFUSAL_BYTES: Final = 64 * 2**10
_READ_BYTES: Final = 16 * 2**10
_SWITCHING: Final = 101
_REASONS: Final[dict[int, Refusal]] = {401: "unauthenticated", 404: "absent", 503: "busy"}
_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError)


class Dialer:
    """Opens authenticated connections to peers.

    Args:
        signer: Authenticates this node.
        trust: Verifies the peers' certificates.
    """

    def __init__(self, signer: Signer, trust: PeerTrust) -> None:
        self._signer = signer
        self._trust = trust

    async def dial(self, api_url: str, body: bytes) -> tuple[trio.abc.Stream, bytes]:
        """Connect and send a request. Return the stream once the peer has left HTTP.

        Beside it are the bytes that came with the response.

        Raises:
            PeerLostError: The peer cannot be reached, or does not answer.
            TunnelRefusedError: It answers with an error.
        """
        try:
            with trio.fail_after(_ANSWER_SECONDS):
                stream = await self._connect(api_url)
                try:
                    rest = await self._switch(stream, api_url, body)
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
        except _BROKEN as error:
            raise PeerLostError(f"{api_url}: {error or type(error).__name__}") from error
        return stream, rest

    async def _connect(self, api_url: str) -> trio.abc.Stream:
        url = urlsplit(api_url)
        host, port = url.hostname or "", url.port or 0
        stream = await trio.open_tcp_stream(host, port)
        if url.scheme != "https":
            return stream
        name = self._trust.name_of(host)
        return trio.SSLStream(
            stream, self._trust.context, server_hostname=name, https_compatible=True
        )

    async def _switch(self, stream: trio.abc.Stream, api_url: str, body: bytes) -> bytes:
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", urlsplit(api_url).netloc),
            ("Connection", "Upgrade"),
            ("Upgrade", PROTOCOL),
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(len(body))),
            (wire.SIGNATURE, self._signer.sign(body, time.time())),
        ]
        head = http.send(h11.Request(method="POST", target=PATH, headers=headers)) or b""
        await stream.send_all(head + (http.send(h11.Data(data=body)) or b""))
        http.send(h11.EndOfMessage())
        answer = await _next_event(http, stream)
        if answer.status_code != _SWITCHING:
            raise await _refusal(answer.status_code, http, stream, api_url)
        return http.trailing_data[0]


async def _next_event(http: h11.Connection, stream: trio.abc.Stream) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
    if isinstance(event, h11.ConnectionClosed):
        raise trio.BrokenResourceError("the peer closed the connection")
    return event


async def _refusal(
    status: int, http: h11.Connection, stream: trio.abc.Stream, api_url: str
) -> TunnelRefusedError:
    body = bytearray()
    while len(body) <= _REFUSAL_BYTES and isinstance(
        event := await _next_event(http, stream), h11.Data
    ):
        body += event.data
    message = f"the peer answered {status}"
    with suppress(msgspec.DecodeError, LookupError, TypeError, RecursionError):
        message = str(msgspec.json.decode(body)["error"]["message"])[: wire.TEXT]
    return TunnelRefusedError(f"{api_url}: {message}", _REASONS.get(status, "failed"))
