"""Start, stop and check Prometheus and Grafana beside an agent on this machine.

With a Docker engine they run in containers (`local.yaml`), otherwise as the programs on PATH, in
the background. Their data is below `.local/`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shared.secret import parse_tokens

HERE: Final = Path(__file__).parent
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
_PREFIX: Final = "DISTRIBUTED_LLM_"


class LocalError(Exception):
    """Something cannot be done here; the text has one or two lines with the remedy."""


@dataclass(frozen=True)
class Local:
    """Addresses and directories on this machine."""

    metrics_port: int
    token_file: Path | None
    prometheus_port: int
    grafana_port: int
    directory: Path

    @property
    def metrics_url(self) -> str:
        """The exporter of the agent."""
        return f"http://localhost:{self.metrics_port}"

    @property
    def prometheus_url(self) -> str:
        """The Prometheus started by `just metrics`."""
        return f"http://localhost:{self.prometheus_port}"

    @property
    def grafana_url(self) -> str:
        """The Grafana started by `just grafana`."""
        return f"http://localhost:{self.grafana_port}"


def read_local(environment: Mapping[str, str]) -> Local:
    """Read the settings.

    Raises:
        LocalError: One of them is none.
    """

    def port(name: str, usual: int) -> int:
        variable = f"{_PREFIX}{name}_PORT"
        told = environment.get(variable) or str(usual)
        if not told.isdecimal() or not 0 < int(told) < 2**16:
            raise LocalError(f"{variable} is {told!r}, which is no port")
        return int(told)

    token = environment.get(f"{_PREFIX}METRICS_TOKEN_FILE")
    directory = environment.get(f"{_PREFIX}LOCAL_DIR") or HERE.parent / ".local"
    return Local(
        metrics_port=port("METRICS", 9090),
        token_file=Path(token).resolve() if token else None,
        prometheus_port=port("PROMETHEUS", 9091),
        grafana_port=port("GRAFANA", 3000),
        directory=Path(directory).resolve(),
    )


@dataclass(frozen=True)
class Service:
    """Prometheus or Grafana, and how it is run."""

    name: str
    url: str
    ready_path: str
    programs: tuple[str, ...]
    """Names of the program on PATH."""
    command: Callable[[str], list[str]]
    """Returns the command for the program that was found."""
    environment: Mapping[str, str]
    hint: str
    """What to install where it cannot be run."""


def prometheus(local: Local) -> Service:
    """Describe this machine's Prometheus."""
    home = local.directory / "prometheus"
    return Service(
        "prometheus",
        local.prometheus_url,
        "/-/ready",
        ("prometheus",),
        lambda program: [
            program,
            f"--config.file={home}/config/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            "--storage.tsdb.retention.time=15d",
            f"--web.listen-address=127.0.0.1:{local.prometheus_port}",
            "--enable-feature=exemplar-storage",
        ],
        {},
        "apt-get install prometheus, or a Docker engine",
    )


def grafana(local: Local) -> Service:
    """Describe this machine's Grafana."""
    home = local.directory / "grafana"
    return Service(
        "grafana",
        local.grafana_url,
        "/api/health",
        ("grafana", "grafana-server"),
        lambda program: [
            program,
            *(["server"] if Path(program).name == "grafana" else []),
            f"--homepath={os.environ.get('GF_PATHS_HOME', '/usr/share/grafana')}",
        ],
        {
            "GF_PATHS_DATA": f"{home}/data",
            "GF_PATHS_LOGS": f"{home}/data/log",
            "GF_PATHS_PLUGINS": f"{home}/data/plugins",
            "GF_PATHS_PROVISIONING": f"{HERE}/grafana/provisioning",
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": str(local.grafana_port),
            "GF_SECURITY_ADMIN_PASSWORD": "admin",  # of a Grafana that listens on loopback only
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "PROMETHEUS_URL": local.prometheus_url,
            "DASHBOARDS_PATH": f"{HERE}/grafana",
        },
        "Grafana (https://grafana.com/grafana/download), or a Docker engine",
    )


def start(service: Service, local: Local) -> str:
    """Start a service unless it runs; return a line with its address.

    Raises:
        LocalError: It cannot be run here, or does not become ready.
    """
    home = local.directory / service.name
    (home / "data").mkdir(parents=True, exist_ok=True)
    if service.name == "prometheus":
        write_configuration(local)
    if (running := _find(home)) is not None:
        if service.name == "prometheus":
            running.send_signal(signal.SIGHUP)  # reload its configuration
        return f"{service.name} runs already: {service.url} (process {running.pid})"
    if has_docker():
        _compose(local, "up", "--detach", service.name)
        _wait_ready(service, home, None)
        return f"{service.name} runs in a container: {service.url}"
    program = next(filter(None, map(shutil.which, service.programs)), None)
    if program is None:
        raise LocalError(f"{service.name} is not installed: {service.hint}")
    if _answers(service.url):
        raise LocalError(
            f"something else answers at {service.url}: stop it, or set "
            f"{_PREFIX}{service.name.upper()}_PORT to another port"
        )
    with (home / "log").open("w") as log:
        process = psutil.Popen(
            service.command(program),
            env=os.environ | service.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    _note(home, process)
    _wait_ready(service, home, process)
    return f"{service.name} runs: {service.url} (process {process.pid}, log {home / 'log'})"


def stop(service: Service, local: Local) -> str:
    """Stop a service that was started here, and no other; return a line that says so."""
    home = local.directory / service.name
    if (running := _find(home)) is not None:
        running.terminate()
        try:
            running.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            running.kill()
        (home / "process.json").unlink(missing_ok=True)
        return f"{service.name} is stopped"
    if has_docker():
        _compose(local, "rm", "--stop", "--force", service.name)
        return f"{service.name} is stopped"
    return f"{service.name} was not started from here"


def check(local: Local) -> str:
    """Check the agent's metrics and health, and Prometheus if it runs; return lines.

    Raises:
        LocalError: There are no metrics.
    """
    url = f"{local.metrics_url}/metrics"
    status, body = _get(url, _read_token(local))
    if status == 0:
        raise LocalError(f"nothing answers at {url}: start an agent with `just run-local`")
    if status != 200:
        raise LocalError(f"{url} answers {status}: {body.splitlines()[0]}")
    names = {line.split()[2] for line in body.splitlines() if line.startswith("# TYPE ")}
    own = [name for name in names if name.startswith("distributed_llm_")]
    if "distributed_llm_node_up" not in own:
        raise LocalError(f"{url} answers, but no node has reported to this exporter yet")
    lines = [f"metrics     ok: {len(own)} families at {url}"]
    status, body = _get(f"{local.metrics_url}/health", _read_token(local))
    health = json.loads(body)
    reasons = "; ".join(health["reasons"]) or "nothing to say"
    lines.append(f"health      {health['status']}: {reasons}")
    status, body = _get(f"{local.prometheus_url}/api/v1/targets")
    if status != 200:
        lines.append(f"prometheus  not at {local.prometheus_url}: start it with `just metrics`")
    else:
        targets = json.loads(body)["data"]["activeTargets"]
        told = ", ".join(
            f"{t['scrapeUrl']} {t['health']} {t['lastError']}".strip() for t in targets
        )
        lines.append(f"prometheus  {told or 'has no targets'}")
    return "\n".join(lines)


def write_configuration(local: Local) -> None:
    """Write Prometheus' configuration and rules for this machine."""
    config = local.directory / "prometheus" / "config"
    shutil.rmtree(config, ignore_errors=True)
    shutil.copytree(HERE / "prometheus" / "rules", config / "rules")
    text = (HERE / "prometheus" / "prometheus.yml").read_text()
    text = text.replace('"localhost:9090"', f'"localhost:{local.metrics_port}"')
    if token := _read_token(local):
        # In a file of its own, because Prometheus takes the whole file as the token.
        (config / "token").touch(mode=0o600)
        (config / "token").write_text(token)
        text += "    authorization:\n      credentials_file: token\n"
    (config / "prometheus.yml").write_text(text)


def has_docker() -> bool:
    """Return whether a Docker engine answers, not only its client."""
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return done.returncode == 0


def _compose(local: Local, *arguments: str) -> None:
    user = f"{os.getuid()}:{os.getgid()}"
    told = {
        "LOCAL_DIRECTORY": str(local.directory),
        "LOCAL_USER": user,
        "PROMETHEUS_PORT": str(local.prometheus_port),
        "GRAFANA_PORT": str(local.grafana_port),
    }
    command = ["docker", "compose", "--file", str(HERE / "local.yaml"), *arguments]
    done = subprocess.run(command, env=os.environ | told, check=False)
    if done.returncode != 0:
        raise LocalError(f"{' '.join(command)} ended with {done.returncode}")


def _note(home: Path, process: psutil.Process) -> None:
    """Record a process so that a later one with the same id is not mistaken for it."""
    noted = {"pid": process.pid, "started": process.create_time()}
    (home / "process.json").write_text(json.dumps(noted))


def _find(home: Path) -> psutil.Process | None:
    """Return the process that was started here, if it is alive."""
    try:
        noted = json.loads((home / "process.json").read_text())
        process = psutil.Process(noted["pid"])
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process if alive and process.create_time() == noted["started"] else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def _wait_ready(service: Service, home: Path, process: psutil.Popen | None) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while _get(service.url + service.ready_path)[0] != 200:
        if process is not None and process.poll() is not None:
            (home / "process.json").unlink(missing_ok=True)
            last = (home / "log").read_text().strip().splitlines()[-3:]
            raise LocalError("\n".join([f"{service.name} ended at once:", *last]))
        if time.monotonic() > deadline:
            raise LocalError(f"{service.name} is not ready after {READY_SECONDS:.0f} s")
        time.sleep(0.1)


def _read_token(local: Local) -> str:
    """Return the first of the tokens that the metrics require, or "" if they require none."""
    if local.token_file is None:
        return ""
    try:
        tokens = parse_tokens(local.token_file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{local.token_file} cannot be read: {error}") from error
    if not tokens:
        raise LocalError(f"{local.token_file} holds no token")
    return tokens[0]


def _answers(url: str) -> bool:
    return _get(url)[0] != 0


def _get(url: str, token: str = "") -> tuple[int, str]:
    """Send a request; return status and body, 0 if nothing answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - of this machine
    try:
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - as above
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run the commands; return the exit code."""
    try:
        local = read_local(environment)
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    both = [prometheus(local), grafana(local)]
    acts: dict[str, Callable[[], list[str]]] = {
        "metrics": lambda: [start(both[0], local)],
        "grafana": lambda: [start(both[1], local)],
        "metrics-stop": lambda: [stop(both[0], local)],
        "grafana-stop": lambda: [stop(both[1], local)],
        "monitoring-stop": lambda: [stop(each, local) for each in both],
        "metrics-check": lambda: [check(local)],
    }
    if arguments == ["monitoring"]:
        # One of the two is useful without the other.
        return max(main([name], environment) for name in ("metrics", "grafana"))
    try:
        (name,) = arguments
        sys.stdout.write("".join(f"{line}\n" for line in acts[name]()))
    except (ValueError, KeyError):
        sys.stderr.write(f"one of: monitoring {' '.join(acts)}\n")
        return 2
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
