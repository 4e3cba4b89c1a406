"""gRPC over TLS, on the port of the HTTP API."""

from pathlib import Path

import grpc
import pytest
import trustme

from tests.grpc_client import Client, ask
from tests.processes import Pair

pytestmark = pytest.mark.slow


def test_grpc_over_tls(pair: Pair, tmp_path: Path) -> None:
    """A grpcio client that trusts the CA can stream; one that does not cannot connect."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    flags = (f"--tls-cert-file={certificate}", f"--tls-key-file={key}")
    with pair.node(*flags) as node:
        address = node.url.removeprefix("https://")
        trusting = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        with grpc.secure_channel(address, trusting) as channel:
            *pieces, last = Client(channel).inference.GenerateStream(ask(), timeout=30)
        assert pieces
        assert last.ending.usage.generated_tokens == 8
        other = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
        with grpc.secure_channel(address, other) as channel:
            call = Client(channel).inference.Generate.future(ask(), timeout=10)
            assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
