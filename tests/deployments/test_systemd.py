"""The units: accepted by systemd's own tools, and true of the processes that they start."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from exporter.settings import ExporterSettings
from node.agent.settings import AgentSettings
from node.settings import NodeSettings
from shared.settings.base import Settings
from tests.processes import Pair, scrape, value, wait_for

DIRECTORY: Final = Path(__file__).parents[2] / "deployments" / "systemd"
EXAMPLE: Final = DIRECTORY / "distributed-llm.toml"
PREFIX: Final = "/opt/distributed-llm/bin"
SETTINGS: Final[dict[str, type[Settings]]] = {
    "agent": AgentSettings,
    "node": NodeSettings,
    "exporter": ExporterSettings,
}
EXPOSURE_TENTHS: Final = 14
"""systemd's score is 1.4 of 10: what is left is the network, /proc and the host's root."""
NODE_END_SECONDS: Final = 10.0
"""What a process needs to end beyond the time that it gives its requests, as the agent has it."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here (Debian: systemd)"
)

pytestmark = pytest.mark.slow


def unit(name: str) -> dict[str, list[str]]:
    """Read a unit's settings, its drop-in's before its own."""
    found: dict[str, list[str]] = {}
    dropped = DIRECTORY / "distributed-llm-.service.d" / "hardening.conf"
    for file in (dropped, DIRECTORY / f"distributed-llm-{name}.service"):
        for line in file.read_text().splitlines():
            if setting := re.match(r"(\w+)=(.*)", line):
                found.setdefault(setting[1], []).append(setting[2])
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as installed beside this environment's commands."""
    directory = tmp_path_factory.mktemp("units")
    shutil.copytree(DIRECTORY, directory, dirs_exist_ok=True)
    for file in directory.glob("*.service"):
        file.write_text(file.read_text().replace(PREFIX, str(Path(sys.executable).parent)))
    return directory


@needs_systemd
def test_systemd_takes_the_units(installed: Path) -> None:
    """`systemd-analyze verify` has nothing to say: no unknown key, no missing command."""
    units = [str(file) for file in installed.glob("*.service")]
    assert len(units) == len(SETTINGS)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    # It names other units of the machine, too.
    assert done.returncode == 0, done.stderr
    assert "distributed-llm" not in done.stderr


@needs_systemd
@pytest.mark.parametrize("name", SETTINGS)
def test_units_are_hardened(installed: Path, name: str) -> None:
    """The exposure that `systemd-analyze security` finds is no higher than the one stated."""
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={EXPOSURE_TENTHS}",
            str(installed / f"distributed-llm-{name}.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("name", SETTINGS)
def test_unit_tells_its_process_what_it_understands(name: str) -> None:
    """Each flag of the command line exists, and each setting of the file that it names."""
    program, *flags = shlex.split(unit(name)["ExecStart"][-1])
    assert program.startswith(PREFIX)
    named = [re.sub(r"(--socket-group)=.*", r"\1=0", flag) for flag in flags]
    named = [re.sub(r"(--config)=/etc/.*", rf"\1={EXAMPLE}", flag) for flag in named]
    settings = SETTINGS[name].read(name, named, "about")
    assert settings.host == "127.0.0.1"  # nothing is opened to others unasked


def test_example_of_the_file_is_accepted_whole(tmp_path: Path) -> None:
    """What is set there, or shown as a comment, is a setting of that process."""
    text = re.sub(r"(?m)^#(?=[a-z])", "", EXAMPLE.read_text())
    file = tmp_path / "config.toml"
    file.write_text(text)
    for name, settings in SETTINGS.items():
        given = settings.read(name, [f"--config={file}"], "about")
        assert given.host == "0.0.0.0"  # noqa: S104 - one of the comments
    assert AgentSettings.read("agent", [f"--config={file}"], "about").sources.keys() >= {
        *("node_id", "model", "tls_cert_file", "seed_nodes", "metrics_token_file")
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_unit_says_when_it_is_ready_and_is_watched(name: str) -> None:
    """Readiness and watchdog by messages, only from the main process, and stops in its order."""
    settings = unit(name)
    assert settings["Type"] == ["notify"]
    assert settings["NotifyAccess"] == ["main"]
    assert float(settings["WatchdogSec"][0]) > 10  # a loaded machine is no hung process
    assert settings["RestartPreventExitStatus"] == ["2"]
    if name != "exporter":
        assert int(settings["LimitNOFILE"][0]) > 2 * NodeSettings().connections
        assert settings["KillMode"] == ["mixed"]
        assert float(settings["TimeoutStartSec"][0]) > NodeSettings().load_seconds


def test_units_give_their_processes_time_to_end() -> None:
    """The stop's timeout is above the drain and what each process needs after it."""
    drain = NodeSettings().drain_seconds
    assert f"\ndrain-seconds = {drain:g}\n" in EXAMPLE.read_text()
    assert float(unit("node")["TimeoutStopSec"][0]) > drain + NODE_END_SECONDS
    assert float(unit("exporter")["TimeoutStopSec"][0]) > NODE_END_SECONDS
    assert float(unit("agent")["TimeoutStopSec"][0]) > drain + 2 * NODE_END_SECONDS


def test_pair_shares_the_socket_and_nothing_else() -> None:
    """Two users, one group, the exporter's directory closed to all others and to writing."""
    node, exporter = unit("node"), unit("exporter")
    assert node["User"] != exporter["User"]
    assert node["Group"] == exporter["Group"]
    assert node["StateDirectory"] != exporter["StateDirectory"]
    assert "RuntimeDirectory" not in node
    assert f"--socket-group={exporter['Group'][0]}" in exporter["ExecStart"][0]
    assert exporter["RuntimeDirectoryMode"] == ["0750"]
    assert f"--runtime-dir=/run/{exporter['RuntimeDirectory'][0]}" in node["ExecStart"][0]
    created = (DIRECTORY / "distributed-llm.sysusers").read_text()
    for user in (node["User"][0], exporter["User"][0]):
        assert re.search(rf"^u {user} ", created, re.MULTILINE)
    assert f"m {exporter['User'][0]} {exporter['Group'][0]}\n" in created


@pytest.mark.parametrize("name", ["node", "exporter"])
def test_unit_waits_for_the_ports_of_the_agent(name: str) -> None:
    """Without an order systemd starts a unit while it stops the one that conflicts with it.

    Nor may each be after the other, which is a cycle.
    """
    agent = "distributed-llm-agent.service"
    assert unit(name)["Conflicts"] == [agent]
    assert agent in unit(name)["After"]
    assert f"distributed-llm-{name}" not in " ".join(unit("agent")["After"])


def test_exporter_outlives_the_node() -> None:
    """The node starts after it and stops before it, and neither takes the other along."""
    node, exporter = unit("node"), unit("exporter")
    assert "distributed-llm-exporter.service" in " ".join(node["After"])
    assert "distributed-llm-exporter.service" in node["Wants"][0]
    for settings in (node, exporter):
        assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & settings.keys()


EXECUTABLE_MEMORY: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN (prctl(2))
    sys.exit(f"no PR_SET_MDWE: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_processes_do_without_memory_to_write_and_execute(pair: Pair) -> None:
    """What `MemoryDenyWriteExecute` forbids no process and no library needs, the engine's too."""
    refused = [sys.executable, "-c", EXECUTABLE_MEMORY, sys.executable, "-m"]
    if subprocess.run([*refused[:4], "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip("this kernel cannot forbid it (Linux 6.3 can)")
    log = pair.directory / "agent.log"
    ports = ["--api-port=0", "--mesh-port=0", "--metrics-port=0"]
    flags = [*ports, "--threads=1", *pair.flags]
    with log.open("w") as stderr:
        agent = subprocess.Popen(
            [*refused, "node.agent", *flags], stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        wait_for(lambda: "is ready" in log.read_text(), seconds=60)
        found = re.search(r"metrics on (\S+)/metrics", log.read_text())
        assert found
        wait_for(lambda: value(scrape(found[1]), "node_up", node_id="node1") == 1)
    finally:
        agent.terminate()
        assert agent.wait(timeout=60) == 0
