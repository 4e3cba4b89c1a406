"""A web configuration file is read as exporter-toolkit does, or refused by the field's name."""

import ssl
from pathlib import Path

import pytest
import trustme
from trio.testing import MockClock, trio_test

from exporter.metrics.conditions import WebCondition
from exporter.web.web_config import TlsSection, WebConfigError, WebFile, parse
from exporter.web.web_file import FollowedWeb, TokenBucket

HASH = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
"""Of `test`, from a configuration that node_exporter takes."""
EVERY_FIELD = f"""\
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example, "fd00::1"]
  min_version: TLS12
  max_version: TLS13
  cipher_suites:
    - TLS_AES_128_GCM_SHA256
    - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    - TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
  prefer_server_cipher_suites: false
  curve_preferences: [X25519]
http_server_config:
  http2: false
  headers:
    Content-Security-Policy: default-src 'none'
    X-Frame-Options: deny
    X-Content-Type-Options: nosniff
    X-XSS-Protection: ""
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  alice: {HASH}
rate_limit:
  interval: 1m0.5s
  burst: 3
"""
TLS = "tls_server_config:\n  cert_file: a\n  key_file: b\n"


def issue(directory: Path) -> trustme.CA:
    """Write a certificate, its key and its CA."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(directory / "server.key")
    issued.cert_chain_pems[0].write_to_path(directory / "server.crt")
    authority.cert_pem.write_to_path(directory / "ca.crt")
    return authority


def set_up(directory: Path, text: str) -> FollowedWeb:
    path = directory / "web.yml"
    path.write_text(text)
    return FollowedWeb(path, WebCondition())


def test_every_field_is_taken(tmp_path: Path) -> None:
    """Each field has its effect; files are relative to the configuration."""
    issue(tmp_path)
    web = set_up(tmp_path, EVERY_FIELD).current
    assert web.tls is not None
    assert web.tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert web.tls.verify_mode == ssl.CERT_OPTIONAL
    assert not web.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    older = {one["name"] for one in web.tls.get_ciphers() if not one["name"].startswith("TLS_")}
    assert older == {"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"}
    assert web.requires_client
    assert web.client_names == {"prometheus.example", "fd00::1"}
    assert web.passwords is not None
    assert web.limit is not None
    assert web.limit.interval_seconds == 60.5
    assert dict(web.headers) == {
        "content-security-policy": "default-src 'none'",
        "x-frame-options": "deny",
        "x-content-type-options": "nosniff",
        "strict-transport-security": "max-age=31536000",
    }


def test_certificates_may_be_in_the_file(tmp_path: Path) -> None:
    """`cert`, `key` and `client_ca` hold PEM texts instead of names."""
    issue(tmp_path)
    texts = {
        field: (tmp_path / name).read_text().replace("\n", "\n    ")
        for field, name in (("cert", "server.crt"), ("key", "server.key"), ("client_ca", "ca.crt"))
    }
    lines = [f"  {field}: |\n    {text}" for field, text in texts.items()]
    text = "\n".join(["tls_server_config:", *lines, "  client_auth_type: VerifyClientCertIfGiven"])
    web = set_up(tmp_path, text).current
    assert web.tls is not None
    assert web.tls.get_ca_certs()
    assert not web.requires_client


@pytest.mark.parametrize("text", ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"])
def test_empty_file_sets_nothing(text: str) -> None:
    """An empty file, or one with empty sections, is plain HTTP that is open."""
    assert parse(text.encode()) == WebFile()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tls_config: {}", "unknown field `tls_config`"),
        ("tls_server_config: {certfile: a}", "tls_server_config: .*unknown field `certfile`"),
        ("tls_server_config: [a]", "tls_server_config: Expected"),
        ("tls_server_config: {key_file: a}", "cert_file is missing"),
        ("tls_server_config: {min_version: TLS13}", "cert_file is missing"),
        ("tls_server_config: {cert_file: a}", "key_file is missing"),
        (TLS + "  min_version: TLS10", "min_version: TLS before 1.2 is not offered"),
        (TLS + "  min_version: SSL3", "tls_server_config.min_version: Invalid"),
        (TLS + "  min_version: TLS13\n  max_version: TLS12", "min_version is above max_version"),
        (TLS + "  cipher_suites: [RC4]", "cipher_suites"),
        (TLS + "  curve_preferences: [X25519, CurveP256]", "curve_preferences: only one"),
        (TLS + "  client_auth_type: RequestClientCert", "RequestClientCert .* any CA"),
        (TLS + "  client_auth_type: RequireAnyClientCert", "RequireAnyClientCert .* any CA"),
        (TLS + "  client_auth_type: Maybe", "client_auth_type: Invalid"),
        (TLS + "  client_auth_type: RequireAndVerifyClientCert", "needs client_ca_file"),
        (TLS + "  client_ca_file: c", "client_ca_file needs client_auth_type"),
        (TLS + "  client_allowed_sans: [a]", "client_allowed_sans needs"),
        ("http_server_config: {headers: {Server: x}}", "headers: Invalid enum value 'Server'"),
        ("http_server_config: {headers: {X-Frame-Options: allow}}", "X-Frame-Options"),
        ('http_server_config: {headers: {X-XSS-Protection: "1\\n"}}', "X-XSS-Protection"),
        ("rate_limit: {interval: 1s}", "burst is below 1"),
        ("rate_limit: {interval: fast, burst: 1}", "interval 'fast' is not a duration"),
        ("basic_auth_users: {alice: secret}", "the password of 'alice' is not a bcrypt hash"),
        (f"basic_auth_users: {{alice: {HASH.replace('$10$', '$20$')}}}", "cost 20, above 16"),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "'a:b' has a colon"),
        (f"basic_auth_users:\n  bob: {HASH}\n  bob: {HASH}", "line 3: bob is repeated"),
        (f"basic_auth_users: {{1: {HASH}}}", "basic_auth_users: Expected `str`"),
        ("basic_auth_users: {", "line 1"),
        ("[" * 9999, "it is not YAML"),
        ("# " + "x" * 2**20, "it is larger"),
    ],
)
def test_fault_is_named(text: str, fault: str) -> None:
    """What is wrong is named, by field or line, and no hash or password is shown."""
    with pytest.raises(WebConfigError, match=fault) as caught:
        parse(text.encode())
    assert "secret" not in str(caught.value)
    assert "mDwo" not in str(caught.value)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    """A missing file, a key of another certificate and a CA without PEM are named by field."""
    with pytest.raises(WebConfigError, match=r"web\.yml cannot be read"):
        FollowedWeb(tmp_path / "web.yml", WebCondition())
    with pytest.raises(
        WebConfigError, match=r"web\.yml: tls_server_config: cert_file with key_file"
    ):
        set_up(tmp_path, TLS)
    issue(tmp_path)
    own = "tls_server_config: {cert_file: server.crt, key_file: "
    other = trustme.CA().issue_cert("other").private_key_pem
    other.write_to_path(tmp_path / "other.key")
    with pytest.raises(WebConfigError, match="key values mismatch"):
        set_up(tmp_path, own + "other.key}")
    (tmp_path / "empty.crt").touch()
    wanted = "server.key, client_ca_file: empty.crt, client_auth_type: VerifyClientCertIfGiven}"
    with pytest.raises(WebConfigError, match="client_ca_file cannot be used"):
        set_up(tmp_path, own + wanted)


@pytest.mark.parametrize("curve", ["CurveP256", "CurveP384", "CurveP521", "X25519"])
def test_each_curve_can_be_set_in_every_python(tmp_path: Path, curve: str) -> None:
    """Each curve of the format is taken, also by a Python that cannot require X25519."""
    issue(tmp_path)
    own = "cert_file: server.crt, key_file: server.key"
    web = set_up(tmp_path, f"tls_server_config: {{{own}, curve_preferences: [{curve}]}}")
    assert web.current.tls is not None


def test_section_without_clients_asks_for_none() -> None:
    """`NoClientCert` is the default."""
    section = TlsSection(cert_file="a", key_file="b", client_auth_type="NoClientCert")
    assert not section.wants_clients


@trio_test
async def test_rate_limit_admits_a_burst_then_a_rate(autojump_clock: MockClock) -> None:
    """After a burst one request comes per interval."""
    bucket = TokenBucket(2.0, 3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    autojump_clock.jump(2.0)
    assert [bucket.take() for _ in range(2)] == [True, False]
    autojump_clock.jump(60.0)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
