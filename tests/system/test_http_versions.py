"""Every version of HTTP with curl, in clear text and over TLS."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.processes import Pair, Running

CURL = shutil.which("curl")
VERSIONS = {"--http1.0": "1.0", "--http1.1": "1.1", "--http2-prior-knowledge": "2"}
FIGURES = "%{http_code} %{http_version} %{num_connects}"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CURL is None, reason="curl is not installed")]


def has_http2() -> bool:
    """Return whether this curl supports HTTP/2."""
    shown = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    return "HTTP2" in shown.stdout


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A flag of curl that selects the version of HTTP."""
    flag: str = request.param
    if "2" in flag and not has_http2():
        pytest.skip("this curl has no HTTP/2")
    return flag


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The CA of these tests."""
    return trustme.CA()


@pytest.fixture(scope="module")
def secured_node(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A node with TLS."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(certificate)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    flags = (f"--tls-cert-file={certificate}", f"--tls-key-file={key}")
    with Pair(directory).node(*flags) as node:
        yield node


def curl(*arguments: str) -> tuple[str, list[str]]:
    """Run curl until it ends by itself; return the body and curl's figures."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "-w", f"\n{FIGURES}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    body, _, figures = done.stdout.rpartition("\n")
    return body, figures.split()


def ask(**body: Any) -> tuple[str, str]:
    """Return curl's arguments for a completion."""
    return "--data", json.dumps({"prompt": "Once upon a time", "max_tokens": 8} | body)


def test_whole_answer(shared_node: Running, version: str) -> None:
    """A whole answer has the requested version, and curl ends at once."""
    began = time.monotonic()
    body, figures = curl(version, *ask(), f"{shared_node.url}/v1/completions")
    assert json.loads(body)["choices"][0]["text"]
    assert figures[:2] == ["200", VERSIONS[version] if version != "--http1.0" else "1.1"]
    assert time.monotonic() - began < 15  # not only at the keep-alive timeout


def test_streamed_answer(shared_node: Running, version: str) -> None:
    """A stream ends with its mark, and the transfer with it."""
    body, figures = curl(version, *ask(stream=True), f"{shared_node.url}/v1/completions")
    assert body.rstrip().endswith("data: [DONE]")
    assert figures[0] == "200"


@pytest.mark.parametrize("stream", [False, True])
def test_connection_close_is_done(shared_node: Running, *, stream: bool) -> None:
    """The server closes first: curl would wait for the end of an HTTP/1.0 body otherwise."""
    closing = ("--http1.1", "--include", "-H", "Connection: close")
    body, _ = curl(*closing, *ask(stream=stream), f"{shared_node.url}/v1/completions")
    assert "connection: close" in body.lower()


@pytest.mark.parametrize(("flag", "opened"), [("--http1.0", "1"), ("--http1.1", "0")])
def test_connection_is_kept(shared_node: Running, flag: str, opened: str) -> None:
    """Two requests of one curl share a connection, except over HTTP/1.0."""
    url = f"{shared_node.url}/v1/models"
    _, figures = curl(flag, "-o", "/dev/null", "-o", "/dev/null", url, url)
    assert figures[-1] == opened


@pytest.mark.parametrize(("flag", "spoken"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_tls_negotiates_the_version(
    secured_node: Running, authority: trustme.CA, tmp_path: Path, flag: str, spoken: str
) -> None:
    """TLS negotiates the client's preferred version, with a certificate that curl can verify."""
    if spoken == "2" and not has_http2():
        pytest.skip("this curl has no HTTP/2")
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    url = f"{secured_node.url}/v1/completions"
    # Twice on one connection; in clear text this curl has a fault that prevents it over HTTP/2.
    body, figures = curl(flag, "--cacert", str(trusted), *ask(stream=True), url, url)
    assert body.rstrip().endswith("data: [DONE]")
    assert figures == ["200", spoken, "0"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("mebibytes", [3, 30])
def test_long_body_is_refused_and_answered(
    shared_node: Running, version: str, tmp_path: Path, mebibytes: int, *, chunked: bool
) -> None:
    """A body above the limit is refused, and an unread one does not hold its connection."""
    file = tmp_path / "body"
    file.write_bytes(bytes(mebibytes * 2**20))
    head = ("-H", "Transfer-Encoding: chunked") if chunked and "1.1" in version else ()
    sent = ("--data-binary", f"@{file}", *head, "-H", "Expect:")
    body, figures = curl(version, *sent, f"{shared_node.url}/v1/completions")
    assert figures[0] == ("413" if mebibytes > 8 else "400")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    body, figures = curl(version, *sent, f"{shared_node.url}/nowhere")
    assert figures[0] == "404"
