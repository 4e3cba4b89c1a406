"""Settings are read from flags and the environment, and each mistake is one line."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.settings import ExporterSettings
from node.agent.settings import AgentSettings
from node.settings import NodeSettings
from shared.command import Subcommand, run_command
from shared.settings.base import Settings
from shared.settings.command_line import HelpShownError
from shared.settings.declaration import (
    Topic,
    UsageError,
    argument,
    declarations,
    flag_of,
    setting,
    variable_of,
)
from shared.settings.exporter import MetricsSettings

MALFORMED = [
    ("--node-id", "-node"),
    ("--node-id", "node-"),
    ("--node-id", "a" * 65),
    ("--node-id", "a b"),
    ("--node-id", "n\n"),
    ("--host", "example.org"),
    ("--host", "127.0.0"),
    ("--api-port", "x"),
    ("--api-port", "-1"),
    ("--api-port", "65536"),
    ("--mesh-port", "1.5"),
    ("--metrics-port", "65536"),
    ("--seed-nodes", "host"),
    ("--seed-nodes", "host:"),
    ("--seed-nodes", ":7946"),
    ("--seed-nodes", "host:0"),
    ("--seed-nodes", "host:65536"),
    ("--seed-nodes", "good:1,bad"),
    ("--context-length", "-1"),
    ("--threads", "-1"),
    ("--queue", "0"),
    ("--drain-seconds", "-0.1"),
    ("--stall-seconds", "0"),
    ("--load-seconds", "0"),
    ("--load-seconds", "soon"),
    ("--log-level", "loud"),
    ("--log-format", "xml"),
]


class StartupRefusedError(Exception):
    """The error that the commands of these tests raise."""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Isolate the test from the environment's settings, and restore the logging."""
    for name in declarations(AgentSettings):
        monkeypatch.delenv(variable_of(name), raising=False)
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def read(*arguments: str) -> AgentSettings:
    return AgentSettings.read("agent", arguments, "about")


def test_contracts_ports_are_the_defaults() -> None:
    """Metrics are on 9090, the API on 8080 and the mesh on 7946, all on loopback."""
    settings = read()
    assert (settings.metrics_port, settings.api_port, settings.mesh_port) == (9090, 8080, 7946)
    assert settings.host == "127.0.0.1"


def test_flag_sets_its_setting() -> None:
    """A flag has the type of its setting, and takes its value with `=` or without."""
    settings = read("--node-id=node1", "--metrics-port", "9191", "--seed-nodes=a:1,[::1]:2,")
    assert (settings.node_id, settings.metrics_port) == ("node1", 9191)
    assert settings.seed_nodes == ("a:1", "[::1]:2")


def test_environment_sets_what_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has an environment variable."""
    monkeypatch.setenv("DISTRIBUTED_LLM_API_PORT", "1234")
    monkeypatch.setenv("DISTRIBUTED_LLM_SEED_NODES", "a:1,b:2")
    settings = read()
    assert (settings.api_port, settings.seed_nodes) == (1234, ("a:1", "b:2"))


def test_flag_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag overrides the variable."""
    monkeypatch.setenv("DISTRIBUTED_LLM_API_PORT", "1234")
    assert read("--api-port=4321").api_port == 4321


@pytest.mark.parametrize(("flag", "value"), MALFORMED)
def test_malformed_value_is_refused_by_flag(flag: str, value: str) -> None:
    """A malformed value is refused in one line that names the flag."""
    with pytest.raises(UsageError) as refused:
        read(f"{flag}={value}")
    assert flag in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("flag", ["--drain-seconds", "--stall-seconds", "--load-seconds"])
def test_nan_is_refused(flag: str) -> None:
    """A duration that is not a number is refused."""
    with pytest.raises(UsageError, match=flag):
        read(f"{flag}=nan")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--series-budget", "0"), ("--node-timeout-seconds", "1.4"), ("--socket-group", "no such")],
)
def test_exporters_malformed_value_is_refused_by_flag(flag: str, value: str) -> None:
    """The exporter's own settings are limited to their ranges."""
    with pytest.raises(UsageError, match=flag):
        ExporterSettings.read("exporter", [f"{flag}={value}"], "about")


def test_socket_group_is_read_by_name_and_number() -> None:
    """A group is given by name or by number."""
    for group in ("root", "0"):
        settings = ExporterSettings.read("exporter", [f"--socket-group={group}"], "about")
        assert settings.socket_group == 0


def test_malformed_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed variable is named in the error, not the flag."""
    monkeypatch.setenv("DISTRIBUTED_LLM_QUEUE", "many")
    with pytest.raises(UsageError, match="DISTRIBUTED_LLM_QUEUE"):
        read()


@pytest.mark.parametrize("argument", ["--metric-port=1", "--api-prt", "node1", "-p", "--queue"])
def test_unknown_argument_is_refused_by_name(argument: str) -> None:
    """An unknown flag, a stray word and a flag without a value are refused by name."""
    with pytest.raises(UsageError) as refused:
        read(argument)
    assert argument.partition("=")[0] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_too_long_runtime_dir_is_refused() -> None:
    """A directory that is too long for a socket is refused; the longest possible one is not."""
    longest = "/" + "d" * (107 - len("//telemetry.sock"))
    assert len(bytes(read(f"--runtime-dir={longest}").socket_path)) == 107
    with pytest.raises(UsageError, match="--runtime-dir is too long"):
        read(f"--runtime-dir={longest}d")


def test_length_of_runtime_dir_is_counted_in_bytes() -> None:
    """The limit counts bytes, as the kernel does, not characters."""
    with pytest.raises(UsageError, match="--runtime-dir is too long"):
        read("--runtime-dir=/" + "ä" * 50)


def test_systemd_directories_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under systemd the directories of the unit are the defaults."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/unit")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/unit")
    settings = read()
    assert (settings.runtime_dir, settings.state_dir) == (Path("/run/unit"), Path("/var/lib/unit"))


def test_session_directory_gets_a_subdirectory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that the user's programs share is not used itself, but a folder in it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert read().runtime_dir == Path("/run/user/7/distributed-llm")


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
seconds = st.floats(min_value=1e-6, max_value=1e9)
paths = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20
).map(lambda name: Path("/srv", name))


@hypothesis.settings(max_examples=40)
@given(
    node_id=names,
    directory=paths,
    seeds=st.lists(st.tuples(names, st.integers(1, 65535)), max_size=3),
    port=st.integers(0, 65535),
    wait=seconds,
)
def test_as_flags_reads_back_the_same(
    node_id: str, directory: Path, seeds: list[tuple[str, int]], port: int, wait: float
) -> None:
    """Settings that are written as flags are read back the same."""
    given_settings = AgentSettings(
        node_id=node_id,
        model=(node_id, f"{node_id}={node_id}.gguf"),
        runtime_dir=directory,
        seed_nodes=tuple(f"{host}:{seed_port}" for host, seed_port in seeds),
        api_port=port,
        drain_seconds=wait,
        load_seconds=wait,
    )
    again = AgentSettings.read("agent", given_settings.as_flags(AgentSettings), "about")
    assert again == given_settings
    node = NodeSettings.read("node", given_settings.as_flags(NodeSettings), "about")
    for name in declarations(NodeSettings):
        assert getattr(node, name) == getattr(given_settings, name)


def test_agent_has_every_setting_of_its_processes() -> None:
    """The agent has every setting of the node and the exporter."""
    every = declarations(NodeSettings) | declarations(ExporterSettings)
    assert dict(declarations(AgentSettings)) == every


def test_as_flags_gives_only_what_is_wanted() -> None:
    """The agent passes a process only the flags that it has."""
    flags = read("--metrics-port=1").as_flags(MetricsSettings)
    assert "--metrics-port=1" in flags
    assert not [flag for flag in flags if flag.startswith(("--api-port", "--queue"))]
    assert ExporterSettings.read("exporter", flags, "about").metrics_port == 1


def run(*arguments: str, error: Exception | None = None, code: int | None = None) -> int:
    def start(settings: Settings) -> int | None:
        del settings
        if error is not None:
            raise error
        return code

    return run_command("tool", "What it does.", Settings, start, StartupRefusedError, arguments)


def test_clean_stop_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that succeeds prints nothing and exits with 0."""
    assert run() == 0
    assert capsys.readouterr().err == ""


def test_code_of_what_ran_is_passed_on() -> None:
    """A command that runs another exits with the other's code."""
    assert run(code=2) == 2


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` lists every setting, explains the variables, and starts nothing."""
    assert run("--help", error=AssertionError()) == 0
    shown = capsys.readouterr().out
    assert all(flag_of(name) in shown for name in declarations(Settings))
    assert variable_of("runtime_dir") in shown


def test_help_is_grouped_by_topic_and_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Headings have a fixed order; a default is shown as a value, or in words if they say more."""
    with pytest.raises(HelpShownError):
        read("--help")
    shown = capsys.readouterr().out
    headings = [line.rstrip(":") for line in shown.splitlines() if line and line[0].isupper()]
    topics = [topic for topic in Topic if topic is not Topic.OPTIONS]
    assert [heading for heading in headings if heading in topics] == topics
    flat = " ".join(shown.split())
    assert "--api-port PORT Port of the API; 0 picks a free one. [default: 8080]" in flat
    assert "[default: the demo model]" in flat
    assert "--api-key-file FILE API keys, one per line; require one for the API. --" in flat


def test_log_of_the_settings_names_sources_and_hides_credentials(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line lists the settings that are not defaults with their sources; URLs hide the user."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("DISTRIBUTED_LLM_QUEUE", "3")
    settings = read("--api-port=0", "--model=https://user:hidden@hub.example/a.gguf")
    dataclasses.replace(settings, node_id="rack-7").log()
    monkeypatch.delenv("DISTRIBUTED_LLM_QUEUE")
    read().log()
    told, nothing = caplog.messages
    assert "api-port=0 (flag)" in told
    assert "queue=3 (environment)" in told
    assert "node-id=rack-7 (derived)" in told
    assert "model=https://***@hub.example/a.gguf (flag)" in told
    assert "hidden" not in told
    assert "mesh-port" not in told
    assert nothing == "settings: all defaults"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkSettings(Settings):
    """Settings of a subcommand."""

    files: tuple[str, ...] = argument(click.STRING, "What to work on.")
    quick: bool = setting(Topic.OPTIONS, False, bool, "Do it quickly.")


def work(*arguments: str) -> tuple[int, list[WorkSettings]]:
    """Run a command that has a subcommand; return the exit code and the subcommand's settings."""
    told: list[WorkSettings] = []
    subcommands = {"work": Subcommand("Do the work. And well.", WorkSettings, told.append)}
    code = run_command(
        "tool",
        "about",
        Settings,
        lambda _: 7,
        StartupRefusedError,
        arguments,
        subcommands=subcommands,
    )
    return code, told


def test_subcommand_has_settings_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A subcommand is chosen by its name, and both helps list their own settings."""
    assert work() == (7, [])
    assert work("--log-level=error") == (7, [])
    code, (told,) = work("work", "--quick", "--node-id=n1", "a", "b")
    assert (code, told.files, told.quick, told.node_id) == (0, ("a", "b"), True, "n1")
    assert work("--help") == (0, [])
    assert "\n  work      Do the work.\n" in capsys.readouterr().out
    assert work("work", "--help") == (0, [])
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: tool work [OPTIONS] FILES...")
    assert "--quick" in shown


@pytest.mark.parametrize("arguments", [("work",), ("work", "--quick=1", "a"), ("word",)])
def test_bad_usage_of_a_subcommand_exits_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """A missing file, a switch with a value and an unknown subcommand are one line each."""
    assert work(*arguments) == (2, [])
    complaint = capsys.readouterr().err
    assert complaint.startswith("tool")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("quick", [True, False])
def test_switches_are_passed_on_and_files_are_not(*, quick: bool) -> None:
    """Switches are written as flags, arguments are not."""
    flags = WorkSettings(files=("a",), quick=quick).as_flags(WorkSettings)
    assert not [flag for flag in flags if "files" in flag]
    assert WorkSettings.read("tool", [*flags, "a"], "about").quick == quick


def test_bad_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is one line on stderr with exit code 2, and nothing starts."""
    assert run("--log-level=loud", error=AssertionError()) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("tool: ")
    assert "--log-level" in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_refused_start_exits_1(capsys: pytest.CaptureFixture[str], depth: int) -> None:
    """A start that fails is one line on stderr with exit code 1, wherever the error was raised."""
    error: Exception = StartupRefusedError("the port is taken: choose another")
    for _ in range(depth):
        error = ExceptionGroup("nursery", [error])
    assert run(error=error) == 1
    assert capsys.readouterr().err == "tool: the port is taken: choose another\n"


def test_bug_is_not_swallowed() -> None:
    """An unexpected error keeps its traceback."""
    with pytest.raises(ExceptionGroup) as raised:
        run(error=ExceptionGroup("nursery", [StartupRefusedError("no"), ZeroDivisionError()]))
    assert raised.group_contains(ZeroDivisionError)


def test_json_log_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--log-format=json` each line is one object, including its exception."""

    def start(settings: Settings) -> None:
        del settings
        try:
            int("many")
        except ValueError:
            logging.getLogger("place").exception("it failed")

    arguments = ["--log-format=json"]
    assert run_command("tool", "about", Settings, start, StartupRefusedError, arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    written = json.loads(line)
    assert (written["level"], written["logger"], written["message"]) == (
        "error",
        "place",
        "it failed",
    )
    assert "\nValueError: " in written["exception"]
