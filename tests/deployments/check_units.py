"""Starts the units under a real systemd, in a container of a clean Debian: `just check-units`.

Installs as docs/deployment.md says, boots, and looks at what systemd makes of it: readiness, the
journal, the watchdog, the pair with its two users, deaths and stops. Needs root, debootstrap and
systemd-nspawn; with an argument it takes that directory as the base, or makes it there.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.deployments.chroot import bootstrap, lay_over, pip_variables, reach_out, run
from tests.deployments.dockerfile import ROOT, context_files
from tests.processes import wait_for

UNITS = ROOT / "deployments" / "systemd"
AGENT, NODE, EXPORTER = (f"distributed-llm-{name}" for name in ("agent", "node", "exporter"))
INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus libgomp1 >/dev/null 2>&1
python3 -m venv /opt/distributed-llm
cd /src
/opt/distributed-llm/bin/pip install --quiet --require-hashes --requirement requirements/runtime.txt
/opt/distributed-llm/bin/pip install --quiet --no-deps .
"""
ASK = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
"""


class Machine:
    """A booted container, by the process that is its systemd."""

    def __init__(self, pid: int) -> None:
        spaces = ["-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        self._enter = ["nsenter", f"--target={pid}", *spaces, "--"]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside and give what it printed."""
        done = subprocess.run(
            [*self._enter, *command], capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Give a property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def ask(self, url: str) -> str:
        """Get a page from inside."""
        return self.run("/opt/distributed-llm/bin/python", "-c", ASK, url, check=False)

    def log(self, unit: str, *options: str) -> str:
        """Give a unit's journal."""
        return self.run("journalctl", "--no-pager", "--unit", unit, *options)


def main() -> None:
    """Install, boot and look."""
    missing = [tool for tool in ("debootstrap", "systemd-nspawn") if not shutil.which(tool)]
    if os.geteuid() != 0 or missing:
        sys.exit("check-units needs root, debootstrap and systemd-nspawn (systemd-container)")
    with tempfile.TemporaryDirectory(prefix="units-") as made:
        base = Path(sys.argv[1]) if sys.argv[1:] else Path(made, "base")
        if not base.exists():
            bootstrap(base)
        with lay_over(base, Path(made, "layer")) as root:
            _install(root)
            with _boot(root, Path(made, "boot.log")) as machine:
                _look_at_agent(machine)
                _look_at_pair(machine)


def _install(root: Path) -> None:
    for file in [*context_files(), Path("requirements/runtime.txt")]:
        (root / "src" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / "src" / file)
    with reach_out(root):
        variables = {"PATH": os.environ["PATH"]} | pip_variables()
        run("chroot", str(root), "/bin/sh", "-ec", INSTALL, environment=variables)
    units = root / "etc/systemd/system"
    shutil.copytree(UNITS, units, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.toml"))
    (root / "etc/distributed-llm").mkdir()
    settings = (UNITS / "distributed-llm.toml").read_text()
    named = settings.replace('#node-id = "node1"', 'node-id = "node1"')
    (root / "etc/distributed-llm/config.toml").write_text(named)
    users = root / "usr/lib/sysusers.d/distributed-llm.conf"
    shutil.move(units / "distributed-llm.sysusers", users)


@contextlib.contextmanager
def _boot(root: Path, log: Path) -> Iterator[Machine]:
    options = ["--private-network", "--register=no", "--keep-unit", "--console=pipe"]
    name = f"--machine=units-{os.getpid()}"
    with log.open("wb") as output:
        outer = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", f"--directory={root}", name, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    try:

        def find_booted() -> Machine | None:
            # Anew each time: its first child only makes the container's systemd.
            machine = Machine(int((children.read_text().split() or ["0"])[0]))
            state = machine.run("systemctl", "is-system-running", check=False).strip()
            return machine if state in ("running", "degraded") else None

        machine: Machine = wait_for(find_booted, 120)
        machine.run("systemd-sysusers")
        yield machine
    finally:
        outer.terminate()
        try:
            outer.wait(timeout=30)
        except subprocess.TimeoutExpired:
            outer.kill()
            outer.wait()


def _look_at_agent(machine: Machine) -> None:
    began = time.monotonic()
    machine.run("systemctl", "start", AGENT)
    _tell(f"{AGENT} is ready", began)
    health = wait_for(lambda: machine.ask("http://127.0.0.1:9090/health"))
    assert '"status": "ok"' in health, health
    lines = [line for line in machine.log(AGENT).splitlines() if "metrics" in line.lower()]
    assert any("exporter.main: metrics on" in line for line in lines), lines
    print(f"its journal has {len(lines)} lines with 'metrics'")
    assert "metrics on" not in machine.log(AGENT, "--priority=warning")

    began = time.monotonic()
    machine.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", AGENT)
    wait_for(lambda: "Watchdog timeout" in machine.log(AGENT), 60)
    _tell("an agent that stands still is killed by the watchdog", began)
    wait_for(lambda: machine.show(AGENT, "ActiveState") == "active", 60)
    _tell("... and serves again", began)
    machine.run("systemctl", "stop", AGENT)
    assert machine.show(AGENT, "Result") == "success"


def _look_at_pair(machine: Machine) -> None:
    machine.run("systemctl", "start", AGENT)
    machine.run("systemctl", "start", NODE)
    assert machine.show(AGENT, "ActiveState") == "inactive"
    assert machine.show(EXPORTER, "ActiveState") == "active", machine.log(EXPORTER)
    for unit in (NODE, EXPORTER):  # neither found its port taken
        assert machine.show(unit, "NRestarts") == "0", machine.log(unit)
    print("starting the node starts its exporter and stops the agent")
    owners = machine.run("stat", "--format=%U:%G %a", "/run/distributed-llm/telemetry.sock")
    assert owners.strip() == f"{EXPORTER}:distributed-llm 660", owners
    _wait_counted(machine)

    looking = ["runuser", "-u", EXPORTER, "--", f"/opt/distributed-llm/bin/{EXPORTER}", "tail"]
    assert "node1" in machine.run(*looking, "--count=1", "--runtime-dir=/run/distributed-llm")

    began = time.monotonic()
    before = machine.show(EXPORTER, "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", EXPORTER)
    wait_for(lambda: machine.show(EXPORTER, "MainPID") not in (before, "0"))
    wait_for(lambda: machine.show(EXPORTER, "ActiveState") == "active")
    _wait_counted(machine)
    _tell("an exporter killed with -9 counts again", began)
    assert machine.show(NODE, "NRestarts") == "0"

    machine.run("systemctl", "stop", NODE)
    assert machine.show(NODE, "Result") == "success"
    assert machine.show(EXPORTER, "ActiveState") == "active"
    wait_for(lambda: "said goodbye" in machine.log(EXPORTER))
    machine.run("systemctl", "stop", EXPORTER)
    assert machine.show(EXPORTER, "Result") == "success"
    print("the exporter outlives the node's stop, and both end cleanly")

    machine.run("systemctl", "start", NODE)
    machine.run("systemctl", "start", AGENT)
    states = [machine.show(unit, "ActiveState") for unit in (AGENT, NODE, EXPORTER)]
    assert states == ["active", "inactive", "inactive"], states
    print("starting the agent stops the pair")


def _wait_counted(machine: Machine) -> None:
    metrics = "http://127.0.0.1:9090/metrics"
    wait_for(lambda: 'node_up{node_id="node1"} 1.0' in machine.ask(metrics))


def _tell(what: str, began: float) -> None:
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
