"""Build the TLS context of the exporter's port from a web configuration file."""

import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from exporter.web.web_config import Cipher, Curve, TlsSection, Version, WebConfigError
from shared.certificates import read_expiry

_VERSIONS: Final[Mapping[Version, ssl.TLSVersion]] = {
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CIPHERS: Final[Mapping[Cipher, str]] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""OpenSSL's names. Those of TLS 1.3 are always enabled, in Go as here, and not listed."""
_CURVES: Final[Mapping[Curve, str]] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
}
"""OpenSSL's names. X25519 is its first choice anyway, and not every Python 3.11 can require it."""


def make_context(section: TlsSection, files: Mapping[str, Path], *, http2: bool) -> ssl.SSLContext:
    """Return the context for new connections. Reads the files.

    Args:
        section: The TLS section of a web configuration file.
        files: The files that it names, by field.
        http2: Whether to offer HTTP/2.

    Raises:
        WebConfigError: A certificate, key or CA cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = _VERSIONS[section.min_version]
    context.maximum_version = _VERSIONS[section.max_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not section.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if older := [_CIPHERS[name] for name in section.cipher_suites if name in _CIPHERS]:
        context.set_ciphers(":".join(older))
    for curve in section.curve_preferences:
        if curve in _CURVES:
            context.set_ecdh_curve(_CURVES[curve])
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    _load_own(context, section, files)
    if section.wants_clients:
        _load_authorities(context, section, files)
    return context


def find_expiry(section: TlsSection, files: Mapping[str, Path]) -> float | None:
    """Return the Unix time at which the port's certificate expires; None if it does not say.

    Args:
        section: The TLS section of a web configuration file, which `make_context` accepts.
        files: The files that it names, by field.
    """
    path = files.get("cert_file")
    with _explained("cert_file"):
        pem = path.read_bytes() if path else section.cert.encode()
    try:
        return read_expiry(pem)
    except ValueError:  # OpenSSL reads more forms of it
        return None


def _load_own(context: ssl.SSLContext, section: TlsSection, files: Mapping[str, Path]) -> None:
    with (
        _as_file(section.cert, files.get("cert_file")) as certificate,
        _as_file(section.key, files.get("key_file")) as key,
        _explained("cert_file with key_file"),
    ):
        # Without a password, OpenSSL would ask the terminal for the one of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: "")


def _load_authorities(
    context: ssl.SSLContext, section: TlsSection, files: Mapping[str, Path]
) -> None:
    path = files.get("client_ca_file")
    with _explained("client_ca_file"):
        context.load_verify_locations(path, cadata=None if path else section.client_ca)
    # Optional, because probes have none: the path decides whether a certificate is required.
    context.verify_mode = ssl.CERT_OPTIONAL


@contextmanager
def _as_file(text: str, path: Path | None) -> Iterator[Path]:
    """Yield a file's path, or that of a private file with the text: OpenSSL reads only files."""
    if path is not None:
        yield path
        return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)


@contextmanager
def _explained(fields: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:  # an OSError, with a text of its own
        reason = (error.reason or "no PEM in it").replace("_", " ").lower()
        raise WebConfigError(f"tls_server_config: {fields} cannot be used: {reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        named = getattr(error, "filename", None)
        where = f"{fields} {named}" if named else fields
        raise WebConfigError(f"tls_server_config: {where} cannot be used: {reason}") from error
