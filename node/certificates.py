"""Report when the node's certificates expire."""

from collections.abc import Iterator
from pathlib import Path

from node.errors import StartupError
from shared.certificates import read_expiry
from shared.events.node import CertificateRead, CertificateUse


def certificate_levels(use: CertificateUse, path: Path | None) -> Iterator[CertificateRead]:
    """Yield when the certificate in a file expires; nothing if there is none.

    Raises:
        StartupError: The file has no certificate.
    """
    if path is None:
        return
    try:
        yield CertificateRead(use, read_expiry(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StartupError(f"the certificate of the {use} in {path}: {error}") from error
