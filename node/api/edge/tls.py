"""The API's TLS: its certificate and the CAs that it trusts."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.certificates import certificate_levels
from node.errors import StartupError
from shared.events.event import Event
from shared.runtime.follow import FollowedFiles

_PROTOCOLS: Final = ["h2", "http/1.1"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CertificateFiles:
    """The certificate files.

    Attributes:
        certificate: The chain, PEM; the server's own certificate comes first.
        key: The private key, PEM, unencrypted.
        client_authorities: CAs that may sign client certificates, PEM; None if clients need no
            certificate.
    """

    certificate: Path
    key: Path
    client_authorities: Path | None

    def paths(self) -> tuple[Path, ...]:
        """Return the paths of the files."""
        own = (self.certificate, self.key)
        return own if self.client_authorities is None else (*own, self.client_authorities)


class ServerTls:
    """TLS settings for new connections, from files that may be renewed.

    Args:
        files: Where they are.
        emit: Takes the event of each renewal.

    Raises:
        StartupError: The files cannot be used.
    """

    def __init__(self, files: CertificateFiles, emit: Callable[[Event], None]) -> None:
        self.files = files
        self._emit = emit
        self._followed = FollowedFiles(files.paths())
        self.context = _load(files)
        """Replaced at each renewal; a connection keeps the context with which it began."""
        self.levels = list(certificate_levels("api", files.certificate))
        """When the certificate in use expires."""

    async def follow(self) -> None:
        """Reload the files after each change. Runs until cancelled."""
        await self._followed.run(self._reload)

    def _reload(self) -> None:
        """Reload the files; if they cannot be used, the previous certificate stays."""
        try:
            levels = list(certificate_levels("api", self.files.certificate))
            self.context = _load(self.files)
        except StartupError as error:
            _log.error("%s; the previous certificate stays in use", error)
        else:
            _log.info("reloaded the certificate from %s", self.files.certificate)
            self.levels = levels
            for level in levels:
                self._emit(level)


def _load(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, section 9.2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_PROTOCOLS)
    try:
        # Without a password, OpenSSL would ask the terminal for the one of an encrypted key.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        message = (
            f"--tls-cert-file {files.certificate} with --tls-key-file {files.key} "
            f"cannot be used: {_say(error)}"
        )
        raise StartupError(message) from error
    if files.client_authorities is not None:
        _trust(context, files.client_authorities)
    return context


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:
        message = f"--tls-client-ca-file {authorities} cannot be used: {_say(error)}"
        raise StartupError(message) from error
    # Optional, because probes have none: the path decides whether a certificate is required.
    context.verify_mode = ssl.CERT_OPTIONAL


def _say(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM in it").replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or error)
