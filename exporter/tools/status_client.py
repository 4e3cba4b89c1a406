"""Reads `/status` and `/status/stream` of an exporter over the network. Blocks: use a thread."""

import base64
import contextlib
import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from exporter.errors import ExporterError
from exporter.status.snapshot import VERSION, Snapshot

SILENCE_SECONDS: Final = 5.0
"""The exporter sends a picture a second; one that is silent for this long counts as lost."""
_LINE_BYTES: Final = 4 * 2**20
"""Far more than a picture of as many nodes and models as one holds."""
_PREFIX: Final = b"data: "
_decoder = msgspec.json.Decoder(Snapshot)


class LostError(ExporterError):
    """The exporter cannot be reached, or broke off. It may come back."""


class RefusedError(ExporterError):
    """The exporter answers, and asking again the same way cannot help. The text has the remedy."""


@dataclass(frozen=True)
class Target:
    """An exporter, and what it wants to see.

    Args:
        url: Its address, with http or https.
        authorization: The header's value; empty for none.
        tls: How to verify it; None for plain HTTP.
    """

    url: str
    authorization: str = ""
    tls: ssl.SSLContext | None = None

    def read(self) -> Snapshot:
        """Return one picture.

        Raises:
            LostError: It cannot be reached.
            RefusedError: It requires other credentials, or is not an exporter.
        """
        with self._ask("/status") as response:
            return _decode(response.read(_LINE_BYTES))

    def follow(self) -> Iterator[Snapshot]:
        """Yield a picture a second, until the exporter ends the stream.

        Raises:
            LostError: It cannot be reached, or was silent for too long.
            RefusedError: It requires other credentials, or is not an exporter.
        """
        with self._ask("/status/stream") as response:
            while line := response.readline(_LINE_BYTES):
                if line.startswith(_PREFIX):
                    yield _decode(line.removeprefix(_PREFIX))

    @contextlib.contextmanager
    def _ask(self, path: str) -> Iterator[http.client.HTTPResponse]:
        address = urlsplit(self.url)
        try:
            with contextlib.closing(self._connect()) as connection:
                headers = {"Authorization": self.authorization} if self.authorization else {}
                connection.request("GET", address.path.rstrip("/") + path, headers=headers)
                with connection.getresponse() as response:
                    self._check(response)
                    yield response
        except ssl.SSLCertVerificationError as error:
            message = (
                f"{self.url}: its certificate is not trusted ({error.verify_message}): "
                "name its CA with --ca-file"
            )
            raise RefusedError(message) from error
        except (OSError, http.client.HTTPException) as error:
            raise LostError(f"{self.url} does not answer ({error or type(error).__name__})") from (
                error
            )

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        host, port = address.hostname or "", address.port
        if self.tls is None:
            return http.client.HTTPConnection(host, port or 80, timeout=SILENCE_SECONDS)
        return http.client.HTTPSConnection(
            host, port or 443, timeout=SILENCE_SECONDS, context=self.tls
        )

    def _check(self, response: http.client.HTTPResponse) -> None:
        if response.status in (401, 403):
            message = (
                f"{self.url} does not accept the credentials: "
                "set --token-file, or --user with --password-file"
            )
            raise RefusedError(message)
        if response.status == http.client.NOT_FOUND:
            raise RefusedError(f"{self.url} has no /status: it is not an exporter of this version")
        if response.status != http.client.OK:
            raise LostError(f"{self.url} answers {response.status}")


def bearer(token: str) -> str:
    """Return the header's value for a token."""
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    """Return the header's value for a user and a password (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def open_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the settings to verify an exporter, and to show it a certificate.

    Args:
        ca: Trusted CAs; None for the system's.
        certificate: This client's certificate, if it has one.
        key: The certificate's key; None if it is in the same file.

    Raises:
        OSError: A file cannot be read or used.
    """
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def _decode(written: bytes) -> Snapshot:
    try:
        snapshot = _decoder.decode(written)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LostError(f"the answer is not a status ({error})") from error
    if snapshot.version > VERSION:
        raise RefusedError(
            f"the exporter speaks version {snapshot.version} of the status, this command "
            f"{VERSION}: upgrade it"
        )
    return snapshot
