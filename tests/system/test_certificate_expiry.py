"""A node with TLS exposes the expiry time of its certificate."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.processes import Pair, scrape, value, wait_for


def test_expiry_is_a_metric_and_follows_a_renewal(tmp_path: Path) -> None:
    """The metric is the expiry time, and follows a renewal while the node runs."""
    authority, files = trustme.CA(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    pair = Pair(tmp_path / "pair")
    first = _issue(authority, files, days=10)
    flags = (f"--tls-cert-file={files[0]}", f"--tls-key-file={files[1]}")
    with pair.exporter() as exporter, pair.node(*flags):

        def expiry() -> float | None:
            return value(
                scrape(exporter.url), "tls_certificate_expiry_timestamp_seconds", use="api"
            )

        wait_for(lambda: expiry() == first)
        second = _issue(authority, files, days=90)
        wait_for(lambda: expiry() == second)


def _issue(authority: trustme.CA, files: tuple[Path, Path], *, days: int) -> float:
    """Write a certificate and its key; return its expiry time."""
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    issued = authority.issue_cert("localhost", not_after=expires.replace(tzinfo=None))
    certificate, key = files
    issued.private_key_pem.write_to_path(key)
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    return expires.timestamp()
