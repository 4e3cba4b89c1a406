"""Read when a certificate expires."""

import base64
from datetime import UTC, datetime
from typing import Final

_HEADER: Final = "-----BEGIN CERTIFICATE-----"
_FOOTER: Final = "-----END CERTIFICATE-----"
_VERSION_TAG: Final = 0xA0
_UTC_TIME_TAG: Final = 0x17
_FIELDS_BEFORE_VALIDITY: Final = 3
"""Serial number, signature algorithm and issuer (RFC 5280, section 4.1)."""


def read_expiry(pem: bytes) -> float:
    """Return the Unix time at which the first certificate of a PEM file expires.

    The standard library verifies certificates but does not show one that it does not verify.

    Args:
        pem: It may hold more, before and behind.

    Raises:
        ValueError: There is no certificate in it.
    """
    text = pem.decode("ascii", "replace")
    encoded, found, _ = text.partition(_HEADER)[2].partition(_FOOTER)
    if not found:
        raise ValueError("it contains no PEM certificate")
    der = base64.decodebytes(encoded.encode())
    try:
        return _read_not_after(der)
    except IndexError as error:
        raise ValueError("the certificate is incomplete") from error


def _read_not_after(der: bytes) -> float:
    to_be_signed, _ = _read_element(der, 0)
    at, _ = _read_element(der, to_be_signed)
    if der[at] == _VERSION_TAG:
        at = _read_element(der, at)[1]
    for _ in range(_FIELDS_BEFORE_VALIDITY):
        at = _read_element(der, at)[1]
    not_before, _ = _read_element(der, at)
    not_after = _read_element(der, not_before)[1]
    start, end = _read_element(der, not_after)
    form = "%y%m%d%H%M%SZ" if der[not_after] == _UTC_TIME_TAG else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[start:end].decode(), form).replace(tzinfo=UTC).timestamp()


def _read_element(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at a place starts and ends (X.690, section 8.1)."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[at + 2 : start])
    return start, start + length
