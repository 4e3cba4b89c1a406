"""Start, stop and check Prometheus, Alertmanager and Grafana beside an agent on this machine.

With a Docker engine they run in containers (`local.yaml`), otherwise as the programs on PATH, in
the background. Their data is below `.local/`.
"""

import functools
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from deployments.services import (
    HERE,
    PREFIX,
    Local,
    LocalError,
    Service,
    alertmanager,
    grafana,
    prometheus,
    read_local,
)
from shared.secret import parse_tokens

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0


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
            f"{PREFIX}{service.name.upper()}_PORT to another port"
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
    exporter = _find_exporter(local)
    url = f"{exporter}/metrics"
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
    status, body = _get(f"{exporter}/health", _read_token(local))
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
    if _find_exporter(local).startswith("https:"):
        # Its certificate is for the name that others use.
        text += "    scheme: https\n    tls_config: {insecure_skip_verify: true}\n"
    if token := _read_token(local):
        # In a file of its own, because Prometheus takes the whole file as the token.
        (config / "token").touch(mode=0o600)
        (config / "token").write_text(token)
        text += "    authorization:\n      credentials_file: token\n"
    if _answers(local.alertmanager_url):
        target = f"localhost:{local.alertmanager_port}"
        text += f'alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{target}"]}}]}}]}}\n'
    (config / "prometheus.yml").write_text(text)


def can_run(service: Service) -> bool:
    """Return whether a service's program is installed, or a Docker engine that has its image."""
    return any(map(shutil.which, service.programs)) or has_docker()


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
        "ALERTMANAGER_PORT": str(local.alertmanager_port),
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


def _find_exporter(local: Local) -> str:
    """Return the URL of the agent's exporter: by HTTPS if that is all that its port speaks."""
    plain, encrypted = local.metrics_url, local.metrics_url.replace("http:", "https:", 1)
    answers_plain = _get(f"{plain}/livez")[0]
    return encrypted if not answers_plain and _get(f"{encrypted}/livez")[0] else plain


def _get(url: str, token: str = "") -> tuple[int, str]:
    """Send a request; return status and body, 0 if nothing answers.

    Certificates are not verified: this machine is asked as `localhost`, whatever it is called.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - of this machine
    try:
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        with urllib.request.urlopen(request, timeout=5, context=context) as response:  # noqa: S310 - as above
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""


def _start(service: Service, local: Local) -> list[str]:
    return [start(service, local)]


def _stop(services: list[Service], local: Local) -> list[str]:
    return [stop(service, local) for service in services]


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run the commands; return the exit code."""
    try:
        local = read_local(environment)
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    services = {
        "metrics": prometheus(local),
        "alertmanager": alertmanager(local),
        "grafana": grafana(local),
    }
    acts: dict[str, Callable[[], list[str]]] = {
        **{name: functools.partial(_start, each, local) for name, each in services.items()},
        **{f"{n}-stop": functools.partial(_stop, [each], local) for n, each in services.items()},
        "monitoring-stop": functools.partial(_stop, list(services.values()), local),
        "metrics-check": lambda: [check(local)],
    }
    if arguments == ["monitoring"]:
        # Each is useful without the others. Alertmanager comes first, so that Prometheus finds it.
        needed = ["metrics", "grafana"]
        wanted = ["alertmanager", *needed] if can_run(services["alertmanager"]) else needed
        return max(main([name], environment) for name in wanted)
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
