"""Reads the answers of a llama-server (HTTP/1.1, RFC 9112) out of received bytes; no I/O."""

from typing import Final

_HEAD_BYTES: Final = 64 * 1024
"""No answer's head is longer."""
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class InvalidResponseError(Exception):
    """The bytes are no HTTP answer, or only a part of one; the text is one line."""


class HttpReader:
    """Splits one answer into its status and its body, which may have any framing."""

    def __init__(self) -> None:
        self.status = 0
        """The HTTP status; 0 until the head has arrived."""
        self.is_over = False
        """Whether the body is complete."""
        self._rest = b""
        self._is_chunked = False
        self._missing: int | None = None
        """Bytes of the body that have not arrived; None if it is chunked or ends with the
        connection."""

    def feed(self, received: bytes) -> bytes:
        """Return what is new of the body; no received bytes are the end of the connection.

        Raises:
            InvalidResponseError: The bytes are not a response, or it is incomplete.
        """
        if not received:
            self._end()
            return b""
        self._rest += received
        if not self.status:
            self._read_head()
        if not self.status:
            return b""
        return self._take_chunks() if self._is_chunked else self._take()

    def _end(self) -> None:
        if not self.status or self._is_chunked or self._missing:
            raise InvalidResponseError("the answer broke off")
        self.is_over = True

    def _read_head(self) -> None:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _HEAD_BYTES or not b"HTTP/1.".startswith(head[:7]):
                raise _no_answer(head)
            return
        first, *lines = head.split(b"\r\n")
        version, _, status = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
            raise _no_answer(head)
        self._rest = rest
        if status.startswith(b"1"):  # an informational answer; the real one follows
            self._read_head()
            return
        self.status = int(status[:3])
        self._read_framing(lines)

    def _read_framing(self, lines: list[bytes]) -> None:
        fields = (line.partition(b":")[::2] for line in lines)
        values = {name.lower(): value.strip() for name, value in fields}
        self._is_chunked = values.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = values.get(b"content-length", b"")
        if not self._is_chunked and length.isdigit():
            self._missing = int(length)

    def _take(self) -> bytes:
        piece, self._rest = self._rest[: self._missing], b""
        if self._missing is not None:
            self._missing -= len(piece)
            self.is_over = not self._missing
        return piece

    def _take_chunks(self) -> bytes:
        pieces: list[bytes] = []
        while not self.is_over:
            line, found, rest = self._rest.partition(b"\r\n")
            if not found:
                break
            size = _chunk_size(line)
            if size and len(rest) < size + 2:
                break
            pieces.append(rest[:size])
            self._rest = rest[size + 2 :]
            self.is_over = not size  # whatever follows is no part of the body
        return b"".join(pieces)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or not _HEX.issuperset(digits):
        raise InvalidResponseError(f"not a chunk size: {line[:40]!r}")
    return int(digits, 16)


def _no_answer(head: bytes) -> InvalidResponseError:
    return InvalidResponseError(f"not an HTTP/1.1 response: {head[:40]!r}")
