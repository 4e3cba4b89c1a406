"""The exporter's port behind a web configuration file, scraped by a real Prometheus."""

import json
import shutil
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
import trustme

from tests import commands
from tests.processes import Pair, Running, wait_for
from tests.prometheus import configured_prometheus, query

ASK = Path(__file__).parents[2] / "deployments" / "docker" / "ask.py"
USER, PASSWORD = "prometheus", "a long: password"
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="needs prometheus on PATH (Debian: prometheus)"
)


class Site:
    """A web configuration with certificates of a CA of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.file = directory / "web.yml"
        self.flag = f"--web-config-file={self.file}"
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(directory / "ca.crt")
        self.issue("server", "127.0.0.1")

    def issue(self, name: str, identity: str, expires: datetime | None = None) -> None:
        """Write a certificate and its key, each atomically."""
        issued = self.authority.issue_cert(identity, not_after=expires)
        for ending, pem in (("key", issued.private_key_pem), ("crt", issued.cert_chain_pems[0])):
            pem.write_to_path(self.directory / "unfinished")
            (self.directory / "unfinished").replace(self.directory / f"{name}.{ending}")

    def write(self, *, users: bool = False, clients: bool = False, **more: Any) -> None:
        """Write the configuration; JSON is YAML."""
        tls = {"cert_file": "server.crt", "key_file": "server.key"}
        if clients:
            required = "RequireAndVerifyClientCert"
            tls |= {"client_ca_file": "ca.crt", "client_auth_type": required}
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(6)).decode()
        found = {"tls_server_config": tls, "basic_auth_users": {USER: hashed} if users else {}}
        self.file.write_text(json.dumps(found | more))

    def trust(self, client: str = "") -> ssl.SSLContext:
        """Return a client's context, which verifies the server and may have a certificate."""
        context = ssl.create_default_context(cafile=self.directory / "ca.crt")
        if client:
            context.load_cert_chain(
                self.directory / f"{client}.crt", self.directory / f"{client}.key"
            )
        return context


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Certificates for the exporter."""
    return Site(tmp_path / "site")


def scraping(site: Site, url: str, **job: Any) -> dict[str, Any]:
    """Return a configuration of Prometheus that scrapes the exporter in several ways."""
    authority = {"ca_file": str(site.directory / "ca.crt")}
    targets = [{"targets": [url.removeprefix("https://")]}]
    common = {"scheme": "https", "static_configs": targets}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": name,
                "tls_config": authority | each.pop("tls_config", {}),
                **common,
                **each,
            }
            for name, each in job.items()
        ],
    }


def ups(url: str) -> dict[str, str]:
    return {row["metric"]["job"]: row["value"][1] for row in query(url, "up")}


def refused_jobs(url: str) -> set[str]:
    """Return the jobs that were refused; the others have no error."""
    targets = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
    errors = {one["scrapePool"]: one["lastError"] for one in targets}
    return {job for job, error in errors.items() if error and "401" in error}


@pytest.mark.slow
@needs_prometheus
def test_prometheus_scrapes_with_tls_passwords_and_client_certificates(
    pair: Pair, site: Site, tmp_path: Path
) -> None:
    """Only the job with both the password and the client certificate may scrape."""
    site.issue("client", "prometheus.example")
    site.write(users=True, clients=True)
    password = {"basic_auth": {"username": USER, "password": PASSWORD}}
    client = {
        "tls_config": {
            name: str(site.directory / f"client.{ending}")
            for name, ending in (("cert_file", "crt"), ("key_file", "key"))
        }
    }
    wrong = {"basic_auth": {"username": USER, "password": "wrong"}}
    with pair.exporter(site.flag) as exporter:
        assert exporter.url.startswith("https://")
        config = scraping(
            site,
            exporter.url,
            both={**password, **client},
            password=dict(password),
            certificate=dict(client),
            wrong={**wrong, **client},
        )
        with configured_prometheus(tmp_path / "prometheus", config) as url:
            expected = {"both": "1", "password": "0", "certificate": "0", "wrong": "0"}
            wait_for(lambda: ups(url) == expected)
            wait_for(lambda: refused_jobs(url) == {"password", "certificate", "wrong"})
        for path, status in (("/livez", 200), ("/readyz", 503), ("/metrics", 401)):
            assert httpx.get(exporter.url + path, verify=site.trust()).status_code == status
        told = exporter.log.read_text()
    assert PASSWORD not in told
    assert "Traceback" not in told


def metrics(site: Site, exporter: Running, password: str = "", client: str = "") -> httpx.Response:
    auth = httpx.BasicAuth(USER, password) if password else None
    return httpx.get(f"{exporter.url}/metrics", verify=site.trust(client), auth=auth)


def test_certificate_expiry_follows_the_file(pair: Pair, site: Site) -> None:
    """The expiry of the certificate in use is shown, that of a renewed one once it is in use."""
    site.write()
    name = "distributed_llm_exporter_tls_certificate_expiry_timestamp_seconds"

    def shown() -> float:
        lines = metrics(site, exporter).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name))

    with pair.exporter(site.flag) as exporter:
        for year in (2040, 2055):
            expires = datetime(year, 2, 3, tzinfo=UTC)
            site.issue("server", "127.0.0.1", expires.replace(tzinfo=None))
            seconds = expires.timestamp()
            wait_for(lambda seconds=seconds: shown() == seconds)  # type: ignore[misc]


@pytest.mark.slow
def test_configuration_is_followed_and_a_mistake_changes_nothing(pair: Pair, site: Site) -> None:
    """A changed file applies without a restart; a wrong one is refused, logged and shown."""
    site.write(http_server_config={"headers": {"X-Frame-Options": "deny"}})
    with pair.exporter(site.flag) as exporter:
        first = metrics(site, exporter)
        assert (first.status_code, first.headers["x-frame-options"]) == (200, "deny")
        assert "distributed_llm_exporter_web_config_valid 1.0\n" in first.text

        site.write(users=True)
        wait_for(lambda: metrics(site, exporter).status_code == 401)
        assert metrics(site, exporter, PASSWORD).status_code == 200

        for wrong in ("basic_auth_users: {eve: plain}", "basic_auth_users: {}", ": ["):
            lines = exporter.log.read_text().count("the previous configuration stays in use")
            site.file.write_text(wrong)
            wait_for(
                lambda lines=lines: exporter.log.read_text().count("stays in use") > lines  # type: ignore[misc]
            )
            assert metrics(site, exporter).status_code == 401
            shown = metrics(site, exporter, PASSWORD).text
            assert "distributed_llm_exporter_web_config_valid 0.0\n" in shown

        site.issue("server", "127.0.0.1")
        site.write(users=True, clients=True)
        wait_for(lambda: "client certificate" in metrics(site, exporter, PASSWORD).text)
        site.issue("client", "anyone")
        shown = metrics(site, exporter, PASSWORD, "client").text
        assert "distributed_llm_exporter_web_config_valid 1.0\n" in shown
        told = exporter.log.read_text()
    assert "turning TLS on or off needs a restart" in told
    assert "Traceback" not in told


def test_certificate_is_renewed(pair: Pair, site: Site) -> None:
    """A certificate that is replaced on disk is shown to new connections."""
    site.write()
    with pair.exporter(site.flag) as exporter:
        parts = httpx.URL(exporter.url)
        address = (parts.host, parts.port or 443)
        before = ssl.get_server_certificate(address)
        site.issue("server", "127.0.0.1")
        wait_for(lambda: ssl.get_server_certificate(address) != before)
        assert metrics(site, exporter).status_code == 200


def test_stranger_is_not_let_in(pair: Pair, site: Site) -> None:
    """A client certificate of another CA fails the handshake."""
    site.write(clients=True)
    with pair.exporter(site.flag) as exporter:
        site.authority = trustme.CA()
        site.issue("stranger", "prometheus.example")
        with pytest.raises(httpx.TransportError):
            metrics(site, exporter, client="stranger")
        assert httpx.get(f"{exporter.url}/livez", verify=site.trust()).status_code == 200


def test_healthcheck_of_the_image_needs_no_credentials(pair: Pair, site: Site) -> None:
    """The container's health check, which asks for plain HTTP, reaches a port with TLS."""
    site.write(users=True, clients=True)
    with pair.exporter(site.flag) as exporter:
        url = exporter.url.replace("https:", "http:") + "/livez"
        done = subprocess.run(
            [sys.executable, "-I", ASK, url], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [[], ["check"]])
def test_wrong_file_at_the_start_is_one_line(pair: Pair, site: Site, command: list[str]) -> None:
    """The exporter does not start with a wrong file, and `check` finds it too."""
    site.file.write_text("tls_server_config: {cert_files: server.crt}")
    done = commands.run("exporter", *command, "--metrics-port=0", *pair.flags, site.flag)
    assert done.returncode == 1
    text = done.stdout if command else done.stderr
    (line,) = [one for one in text.splitlines() if "cert_files" in one]
    assert f"{site.file}: tls_server_config: Object contains unknown field" in line
    assert "Traceback" not in text
