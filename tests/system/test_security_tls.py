"""TLS: certificates of both sides, and their renewal."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from node.demo import MODEL_PATH
from tests import commands
from tests.patience import patient
from tests.processes import Pair, Running, free_port, wait_for


@dataclass
class Files:
    """A certificate and its CA, as files and for a client."""

    directory: Path
    authority: trustme.CA

    def issue(self, *names: str) -> None:
        """Replace the certificate with a new one, each file atomically."""
        issued = self.authority.issue_cert(*names or ("127.0.0.1",))
        unfinished = self.directory / "unfinished"
        issued.private_key_pem.write_to_path(unfinished)
        unfinished.replace(self.directory / "key.pem")
        issued.cert_chain_pems[0].write_to_path(unfinished)
        unfinished.replace(self.directory / "cert.pem")

    @property
    def flags(self) -> list[str]:
        """The node's flags."""
        return [
            f"--tls-cert-file={self.directory / 'cert.pem'}",
            f"--tls-key-file={self.directory / 'key.pem'}",
        ]

    def trust(self, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a client's TLS context; it verifies the server and may have a certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            client.configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A certificate in its own directory."""
    made = Files(tmp_path / "certificates", trustme.CA())
    made.directory.mkdir()
    made.issue()
    return made


def shown_certificate(url: str) -> str:
    """Return the certificate that the server shows to a new connection."""
    parts = httpx.URL(url)
    return ssl.get_server_certificate((parts.host, parts.port or 443))


@pytest.mark.parametrize(
    ("names", "flags", "status"),
    [
        (["127.0.0.1"], [], 200),
        (["nodes.example"], ["--peer-tls-name=nodes.example"], 200),
        (["other.example"], ["--peer-tls-name=nodes.example"], 503),
        (["nodes.example"], [], 503),
    ],
)
def test_peers_are_asked_only_if_their_certificate_has_the_name(
    tmp_path: Path, files: Files, names: list[str], flags: list[str], status: int
) -> None:
    """A certificate for all nodes has a name of its own: their addresses may change."""
    files.issue(*names)
    authority = files.directory / "ca.pem"
    files.authority.cert_pem.write_to_path(authority)
    flags = [*files.flags, f"--peer-ca-file={authority}", *flags]
    seed = free_port()
    mesh = [f"--seed-nodes=127.0.0.1:{seed}", *flags]
    first, second = Pair(tmp_path / "a"), Pair(tmp_path / "b")
    with (
        first.node("--node-id=a", f"--mesh-port={seed}", f"--model=a={MODEL_PATH}", *mesh) as node,
        second.node("--node-id=b", "--mesh-port=0", f"--model=b={MODEL_PATH}", *mesh),
        httpx.Client(base_url=node.url, verify=unverified()) as client,
    ):

        def ask() -> httpx.Response | None:
            """Ask for the other node's model as soon as it is known."""
            asked = {"model": "b", "prompt": "Once", "max_tokens": 2}
            answer = client.post("/v1/completions", json=asked, timeout=patient(60))
            return None if answer.status_code == 404 else answer

        assert wait_for(ask).status_code == status


def unverified() -> ssl.SSLContext:
    """Return the TLS context of a client that does not look at certificates."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def checked_well(exporter: Running) -> bool:
    """Return whether the exporter's check of the node's API has passed."""
    checks = httpx.get(f"{exporter.url}/health").json()["checks"]
    return bool(checks["node_api"]["status"] == "ok")


def test_node_speaks_tls_and_its_exporter_knows(pair: Pair, files: Files) -> None:
    """The node serves https, which clients can verify, and the exporter's check uses it."""
    with pair.exporter() as exporter, pair.node(*files.flags) as node:
        assert node.url.startswith("https://")
        asked = {"prompt": "Once", "max_tokens": 2}
        done = httpx.post(f"{node.url}/v1/completions", json=asked, verify=files.trust())
        assert done.status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{node.url}/health")  # not signed by any CA of the system

        wait_for(lambda: checked_well(exporter))
        clear = httpx.URL(node.url)
        with socket.create_connection((clear.host, clear.port)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1" not in connection.recv(100)  # a TLS alert, no response in clear text
        assert "Traceback" not in node.log.read_text()


@pytest.mark.slow
def test_renewed_certificate_is_shown(pair: Pair, files: Files) -> None:
    """A renewed certificate is used without a restart; an unusable one is ignored."""
    with pair.node(*files.flags) as node:
        first = shown_certificate(node.url)
        files.issue()
        second = wait_for(
            lambda: found if (found := shown_certificate(node.url)) != first else None
        )
        (files.directory / "cert.pem").write_text("renewed by a broken script")
        wait_for(lambda: "stays in use" in node.log.read_text())
        assert shown_certificate(node.url) == second
        files.issue()
        wait_for(lambda: shown_certificate(node.url) != second)


@pytest.mark.slow
@pytest.mark.parametrize("http2", [False, True])
def test_client_certificate_is_asked_for_but_by_probes(
    pair: Pair, files: Files, *, http2: bool
) -> None:
    """With a client CA only its certificates are accepted; `/health` needs none."""
    clients = trustme.CA()
    authority = files.directory / "clients.pem"
    clients.cert_pem.write_to_path(authority)
    known = clients.issue_cert("client@example.org")
    stranger = trustme.CA().issue_cert("client@example.org")
    with (
        pair.exporter() as exporter,
        pair.node(*files.flags, f"--tls-client-ca-file={authority}") as node,
    ):

        def status(path: str, client: trustme.LeafCert | None) -> int:
            with httpx.Client(verify=files.trust(client), http2=http2) as asking:
                return asking.get(f"{node.url}{path}").status_code

        assert status("/v1/models", known) == 200
        assert status("/v1/models", None) == 401
        assert status("/", None) == 401
        assert status("/health", None) == 200
        assert status("/health/", None) == 401
        with pytest.raises(httpx.TransportError):
            status("/health", stranger)
        wait_for(lambda: checked_well(exporter))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--tls-cert-file={d}/cert.pem"], 2, "set both or neither"),
        (["--tls-key-file={d}/key.pem"], 2, "set both or neither"),
        (["--tls-client-ca-file={d}/cert.pem"], 2, "needs --tls-cert-file"),
        (["--tls-cert-file={d}/none", "--tls-key-file={d}/key.pem"], 1, "no such file"),
        (["--tls-cert-file={d}/text", "--tls-key-file={d}/key.pem"], 1, "--tls-cert-file"),
        (["--tls-cert-file={d}/cert.pem", "--tls-key-file={d}/other"], 1, "mismatch"),
        (
            [
                "--tls-cert-file={d}/cert.pem",
                "--tls-key-file={d}/key.pem",
                "--tls-client-ca-file={d}/text",
            ],
            1,
            "--tls-client-ca-file",
        ),
    ],
)
def test_unusable_files_are_one_line(
    pair: Pair, files: Files, flags: list[str], code: int, said: str
) -> None:
    """Unusable files are refused at the start in one line that names the flag."""
    (files.directory / "text").write_text("not a certificate")
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(files.directory / "other")
    given = [flag.format(d=files.directory) for flag in flags]
    quiet = ("--log-level=error", "--api-port=0", "--mesh-port=0")
    done = commands.run("node", *quiet, *pair.flags, *given)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr.lower()
