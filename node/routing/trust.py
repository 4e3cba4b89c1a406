"""Decides which certificates of other nodes' APIs this node trusts."""

import ssl
from pathlib import Path
from typing import Final

from node.errors import StartupError


class PeerTrust:
    """The trusted CAs of other nodes' certificates, and the name that those must have.

    Args:
        authorities: File of the CAs, PEM; default: the system's CAs.
        name: The name; default: the peer's address.

    Raises:
        StartupError: The file cannot be read, or has no certificate.
    """

    def __init__(self, authorities: Path | None = None, name: str = "") -> None:
        try:
            self.context: Final = ssl.create_default_context(cafile=authorities)
        except OSError as error:  # SSLError is one
            is_read = isinstance(error, ssl.SSLError)
            reason = "it has no certificate in PEM" if is_read else error.strerror
            message = f"--peer-ca-file {authorities} cannot be used: {reason}"
            raise StartupError(message) from error
        self._name = name

    def name_of(self, host: str) -> str:
        """Return the name that the certificate of the peer at `host` must have."""
        return self._name or host
