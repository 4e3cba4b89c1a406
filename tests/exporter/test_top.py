"""What `top` shows, and how it reaches an exporter; tests/system/test_top.py runs it."""

import contextlib
import io
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest
import trustme
from rich.console import Console, Group

from exporter.status import snapshot as s
from exporter.tools import status_client, top_screen, top_tables
from exporter.tools.status_client import LostError, RefusedError, Target, basic, bearer, open_tls
from exporter.tools.top_plain import as_text
from tests.commands import run

LINE: Final = s.Sparklines(
    step_seconds=5, tokens_per_second=[], first_token_p95_seconds=[], queued=[], failed=[]
)
TRAFFIC: Final = s.Traffic(
    tokens_per_second=123.4,
    first_token=s.FirstToken(p50_seconds=0.05, p95_seconds=1.25),
    ended={"ok": 7, "error": 1, "timeout": 1, "cancelled": 0, "rejected": 3},
    in_flight=2,
    queued=1,
    slots_busy=1,
    slots_total=2,
)
MACHINE: Final = s.Machine(
    cpu_cores=2.0,
    host_cpu_percent=50.0,
    node_cpu_percent=1.0,
    engine_cpu_percent=99.0,
    node_bytes=2**26,
    engine_bytes=2**30,
    available_bytes=None,
    total_bytes=2**34,
)


def picture(health: Literal["ok", "failed"] = "ok", model_id: str = "demo") -> s.Snapshot:
    """Return a picture of one node."""
    model = s.Model(
        model_id=model_id,
        state="loaded",
        load_ratio=None,
        architecture="llama",
        quantization="Q8_0",
        size_bytes=2**24,
        layers=8,
        traffic=TRAFFIC,
        silent_seconds=40.0,
        stalled=health == "failed",
        restarts={"crashed": 1, "stalled": 1},
    )
    node = s.Node(
        node_id="n1",
        up=True,
        departed=False,
        state="busy",
        silent_seconds=0.1,
        uptime_seconds=7300.0,
        version="0.1.0",
        python="3.11.7",
        engine="ctransformers",
        traffic=TRAFFIC,
        models=[model],
        machine=MACHINE,
        telemetry=s.Proof(emitted=12, applied=9, dropped=1, lost=2, lag_seconds=0.2),
        peers=[s.Peer(node_id="n2", status="online")],
        sparklines=LINE,
    )
    exporter = s.Exporter(
        version="0.1.0", uptime_seconds=50.0, durable=True, failure="", window_seconds=300.0
    )
    return s.Snapshot(
        at=1.6e9,
        health=health,
        problems=["n1 is ill"],
        exporter=exporter,
        nodes=[node],
        requests=[],
    )


def test_plain_text_has_every_number() -> None:
    """The plain output names health, problems, nodes, models, proof and mesh."""
    text = as_text(picture("failed"))
    for part in (
        "needs attention",
        "n1 is ill",
        "n1  busy  up 2 h",
        "1.25 s",
        "of 12 requests in 5 min, 3 rejected",
        "12 emitted = 9 applied + 1 dropped + 2 lost; 200 ms behind",
        "CPU 50 % of 2 cores, node 64 MiB, engines 1.0 GiB, - of 16.0 GiB free",
        "n2 online",
        "stalled for 40 s",
    ):
        assert part in text
    assert "last requests" not in text


def test_text_of_others_cannot_move_the_cursor() -> None:
    """Control characters in a model's name never reach the terminal."""
    text = as_text(picture(model_id="\x1b[2J\x07evil"))
    assert "\x1b" not in text
    assert "[2J\ufffdevil" in text


@pytest.mark.parametrize(
    ("points", "drawn"),
    [
        ([], ""),
        ([0, 0], "▁▁"),
        ([0, None, 8, 4], "▁ █▅"),
        ([*[0] * 30, 8], f"{'▁' * 15}█"),
    ],
)
def test_sparkline_fits_and_keeps_its_peaks(points: list[float | None], drawn: str) -> None:
    """Many points share a character, which shows the highest of them; unknown is a gap."""
    assert top_tables.sparkline(points) == drawn.rjust(24)


class _Handler(BaseHTTPRequestHandler):
    """A server that answers what a test tells it to."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        """Answer any path; a stream ends in the middle of an event."""
        self.server.seen = (self.path, self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


@contextlib.contextmanager
def served(status: int, body: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """Answer every request alike; yields the server."""
    handler = type("Handler", (_Handler,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


def test_path_of_a_proxy_and_credentials_are_sent() -> None:
    """A prefix in the URL is kept, and the credentials are in the header."""
    with served(200, msgspec.json.encode(picture())) as server:
        url = f"http://127.0.0.1:{server.server_port}/node1"
        assert Target(url, basic("ada", "p:ss")).read() == picture()
        assert server.seen == ("/node1/status", "Basic YWRhOnA6c3M=")
        Target(url, bearer("t")).read()
        assert server.seen == ("/node1/status", "Bearer t")


def test_stream_yields_each_picture_until_it_ends() -> None:
    """Comments and blank lines between events are skipped."""
    event = b"data: " + msgspec.json.encode(picture()) + b"\n\n"
    with served(200, b": hello\n\n" + event + event) as server:
        target = Target(f"http://127.0.0.1:{server.server_port}")
        assert list(target.follow()) == [picture(), picture()]
        assert server.seen == ("/status/stream", None)


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (401, b"", RefusedError, "set --token-file"),
        (404, b"", RefusedError, "not an exporter"),
        (503, b"", LostError, "answers 503"),
        (200, b"<html>", LostError, "not a status"),
        (200, b'{"version": 1}', LostError, "not a status"),
        (200, b"\xff", LostError, "not a status"),
    ],
)
def test_other_answers_are_explained(
    status: int, body: bytes, error: type[Exception], words: str
) -> None:
    """Whatever answers there, the error says what is wrong; only some are worth another try."""
    with served(status, body) as server, pytest.raises(error, match=words):
        Target(f"http://127.0.0.1:{server.server_port}").read()


def test_newer_status_asks_for_an_upgrade() -> None:
    """A picture that this version would misread is refused."""
    newer = msgspec.structs.replace(picture(), version=2)
    with served(200, msgspec.json.encode(newer)) as server:
        target = Target(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(RefusedError, match="upgrade"):
            target.read()


def test_silent_exporter_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that accepts and never answers is lost after a while."""
    monkeypatch.setattr(status_client, "SILENCE_SECONDS", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        target = Target(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(LostError, match="does not answer"):
            target.read()


def test_certificates_are_verified_both_ways(tmp_path: Path) -> None:
    """An unknown CA is refused with the remedy; a client certificate is shown where asked for."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("top@example.org")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with served(200, msgspec.json.encode(picture()), tls) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        with pytest.raises(RefusedError, match="--ca-file"):
            Target(url, tls=open_tls(None, None, None)).read()
        with pytest.raises(LostError):
            Target(url, tls=open_tls(tmp_path / "ca.pem", None, None)).read()
        known = open_tls(tmp_path / "ca.pem", tmp_path / "client.pem", None)
        assert Target(url, tls=known).read() == picture()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://x"], "URL: 'ftp://x'"),
        (["http://a", "http://b"], "name one exporter"),
        (["http://x:99999"], "URL: 'http://x:99999'"),
        (["--user=ada"], "--user and --password-file"),
        (["--user=ada", "--password-file=p", "--token-file=t"], "--token-file and --user"),
    ],
)
def test_incorrect_usage_is_one_line(arguments: list[str], words: str) -> None:
    """What does not go together is refused before anything is asked."""
    done = run("exporter", "top", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("health", ["ok", "failed"])
def test_once_prints_and_its_code_is_the_health(health: Literal["ok", "failed"]) -> None:
    """Without a terminal the numbers are printed once; a failed exporter gives exit code 1."""
    with served(200, msgspec.json.encode(picture(health))) as server:
        done = run("exporter", "top", f"http://127.0.0.1:{server.server_port}")
    assert (done.returncode, done.stderr) == (int(health == "failed"), "")
    assert done.stdout == as_text(picture(health))


def test_unusable_files_and_hosts_are_one_line(tmp_path: Path) -> None:
    """A missing file or exporter ends the command with one line and exit code 1."""
    for arguments in (
        [f"--token-file={tmp_path / 'none'}"],
        [f"--ca-file={tmp_path / 'none'}", "https://127.0.0.1:1"],
        ["http://127.0.0.1:1"],
    ):
        done = run("exporter", "top", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(("width", "shown"), [(110, 1), (80, 1), (68, 0)])
def test_column_without_room_is_left_out(width: int, shown: int) -> None:
    """A narrow terminal shows no stump of the last column; 80 columns are enough for models."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(Group(*top_screen.parts(picture(), width)))
    text = console.export_text()
    assert text.count("restarts") == shown
    assert "restar " not in text
    assert "failed" in text
