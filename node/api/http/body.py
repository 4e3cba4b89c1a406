"""Reads a request's body over HTTP: decompresses it if needed, and decodes its JSON.

Only encodings that the standard library can decompress are supported. The size limit applies both
to the body as sent and to the decompressed body.
"""

import zlib
from typing import Final, TypeVar

import trio
from quart import request

from node.api import reading
from node.api.schema import Body
from node.errors import InvalidRequestError

BODY_BYTES: Final = 8 * 2**20
_LONG_BYTES: Final = 64 * 2**10
"""A longer body is decoded in a thread, because a hostile one takes a second and more."""
_INFLATED: Final = "gzip, deflate"

_Kind = TypeVar("_Kind", bound=Body)


class UnsupportedEncodingError(InvalidRequestError):
    """The body is compressed with an encoding that the node does not support."""

    status = 415
    code = "unsupported_encoding"

    def headers(self) -> dict[str, str]:
        """Return the header that names the supported encodings (RFC 9110, section 15.5.16)."""
        return {"Accept-Encoding": _INFLATED}


class BodyTooLargeError(InvalidRequestError):
    """The body is too large after decompression."""

    status = 413


async def read_body(kind: type[_Kind]) -> _Kind:
    """Read the current request's body.

    Raises:
        InvalidRequestError: It cannot be decompressed, is not JSON, or asks for something
            unsupported.
    """
    body: bytes = await request.body
    encoding = ",".join(request.headers.getlist("Content-Encoding")).strip().lower()
    if encoding not in ("", "identity"):
        body = await trio.to_thread.run_sync(inflate, body, encoding)
    if len(body) > _LONG_BYTES:
        return await trio.to_thread.run_sync(reading.decode, body, kind)
    return reading.decode(body, kind)


def inflate(body: bytes, encoding: str) -> bytes:
    """Return the decompressed body.

    Raises:
        UnsupportedEncodingError: The encoding is not supported.
        BodyTooLargeError: The result exceeds the limit of a body.
        InvalidRequestError: The body is not in that encoding, or is truncated.
    """
    inflater = zlib.decompressobj(_window_bits(encoding, body))
    try:
        inflated = inflater.decompress(body, BODY_BYTES + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {encoding}: {error}") from error
    if len(inflated) > BODY_BYTES:
        raise BodyTooLargeError(f"the body is larger than {BODY_BYTES} bytes when decompressed")
    if not inflater.eof:
        raise InvalidRequestError(f"the body is truncated: its {encoding} stream does not end")
    if inflater.unused_data:
        raise InvalidRequestError(f"the body continues after the end of its {encoding} stream")
    return inflated


def _window_bits(encoding: str, body: bytes) -> int:
    """Return the encoding as zlib's window bits (zlib's manual, inflateInit2)."""
    if encoding in ("gzip", "x-gzip"):
        return 31
    if encoding != "deflate":
        message = f"Content-Encoding {encoding[:40]!r} is not supported: use gzip, deflate or none"
        raise UnsupportedEncodingError(message)
    # RFC 9110, section 8.4.1.2: some clients send deflate without its header (RFC 1950).
    has_header = body[:1] == b"x" and int.from_bytes(body[:2], "big") % 31 == 0
    return 15 if has_header else -15
