"""The expiry times of certificates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from node.certificates import certificate_levels
from node.errors import StartupError
from shared.certificates import read_expiry
from shared.events.node import CertificateRead


@pytest.mark.parametrize("year", [2049, 2051], ids=["UTCTime", "GeneralizedTime"])
def test_expiry_is_what_the_certificate_says(year: int) -> None:
    """Both formats of a time are read; of a chain, the first certificate counts."""
    expires = datetime(year, 3, 1, 12, 30, 15, tzinfo=UTC)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", not_after=expires.replace(tzinfo=None))
    chain = issued.cert_chain_pems[0].bytes() + authority.cert_pem.bytes()
    assert read_expiry(chain) == expires.timestamp()


def test_level_names_the_use(tmp_path: Path) -> None:
    """The level has the use and the time; without a file there is none."""
    expires = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0, tzinfo=None)
    file = tmp_path / "cert.pem"
    trustme.CA().issue_cert("localhost", not_after=expires).cert_chain_pems[0].write_to_path(file)
    (level,) = certificate_levels("mesh", file)
    assert level == CertificateRead("mesh", expires.replace(tzinfo=UTC).timestamp())
    assert list(certificate_levels("mesh", None)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_file_without_a_certificate_is_named(content: bytes, tmp_path: Path) -> None:
    """A file that is not a certificate is refused with its name and its use."""
    file = tmp_path / "cert.pem"
    file.write_bytes(content)
    with pytest.raises(StartupError, match=r"mesh.*cert\.pem"):
        list(certificate_levels("mesh", file))
