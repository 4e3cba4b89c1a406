"""The TOML file sets values, and each mistake in it is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.settings import ExporterSettings
from exporter.tools.tail import TailSettings
from node.agent.settings import AgentSettings
from node.settings import NodeSettings
from shared.settings.base import Settings
from shared.settings.declaration import UsageError, declarations, variable_of

WHOLE = """
node-id = "rack-7"
log-format = "json"

[node]
api-port = 8081
model = ["/srv/a.gguf", "b=/srv/b.gguf"]
drain-seconds = 5

[exporter]
metrics-port = 9191
socket-group = 0

[exporter.buckets]
inference_latency_seconds = [1, 5.5, 30]
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the test from the environment's settings."""
    for name in declarations(AgentSettings):
        monkeypatch.delenv(variable_of(name), raising=False)


Read = Callable[..., Any]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read the settings of a process from the text of a file and from flags."""

    def read(settings: type[Settings], text: str | bytes, *flags: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return settings.read("tool", [f"--config={file}", *flags], "about")

    return read


def test_one_file_serves_every_process(read: Read) -> None:
    """Each process reads the common settings and its own table; the agent reads all."""
    agent, node, exporter, tail = (
        read(each, WHOLE) for each in (AgentSettings, NodeSettings, ExporterSettings, TailSettings)
    )
    assert {each.log_format for each in (agent, node, exporter, tail)} == {"json"}
    assert (node.node_id, node.api_port, node.drain_seconds) == ("rack-7", 8081, 5.0)
    assert node.model == ("/srv/a.gguf", "b=/srv/b.gguf")
    assert (exporter.metrics_port, exporter.socket_group) == (9191, 0)
    assert exporter.buckets == {"inference_latency_seconds": (1.0, 5.5, 30.0)}
    for name in declarations(NodeSettings):
        assert getattr(agent, name) == getattr(node, name)
    for name in declarations(ExporterSettings):
        assert getattr(agent, name) == getattr(exporter, name)


def test_flag_beats_environment_beats_file_beats_default(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags override the environment, which overrides the file; each value names its source."""
    monkeypatch.setenv("DISTRIBUTED_LLM_QUEUE", "2")
    monkeypatch.setenv("DISTRIBUTED_LLM_API_PORT", "2")
    text = "[node]\nqueue = 3\napi-port = 3\nmesh-port = 3\n"
    settings = read(NodeSettings, text, "--queue=1")
    ports = settings.api_port, settings.mesh_port
    assert (settings.queue, *ports, settings.connections) == (1, 2, 3, 1000)
    sources = {name: settings.sources.get(name) for name in ("queue", "api_port", "mesh_port")}
    assert sources == {"queue": "flag", "api_port": "environment", "mesh_port": "file"}
    assert "connections" not in settings.sources


def test_variable_names_the_file(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`DISTRIBUTED_LLM_CONFIG` names the file as well."""
    read(NodeSettings, "[node]\nqueue = 3\n")
    monkeypatch.setenv("DISTRIBUTED_LLM_CONFIG", str(tmp_path / "config.toml"))
    assert NodeSettings.read("node", [], "about").queue == 3


def test_what_a_flag_sets_back_to_its_default_is_not_passed_on_from_the_file(read: Read) -> None:
    """A flag of the agent overrides the file in its processes, even if it sets the default."""
    agent = read(AgentSettings, "[node]\nqueue = 3\nmesh-port = 3\n", "--queue=64")
    node = NodeSettings.read("node", agent.as_flags(NodeSettings), "about")
    assert (node.queue, node.mesh_port, node.config) == (64, 3, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("api-prt = 1", "line 1: api-prt: unknown"),
        ("\n[node]\napi-prt = 1", "line 3: api-prt in [node]: unknown; did you mean api-port?"),
        ("[node]\nnothing-of-the-kind = 1", "line 2: nothing-of-the-kind in [node]: unknown"),
        ("[nodes]\nqueue = 1", "line 1: nodes: unknown; did you mean node?"),
        ("node = 3", "line 1: node: expected a table: [node]"),
        ("api-port = 1", "line 1: api-port: belongs in [node]"),
        ("[exporter]\napi-port = 1", "line 2: api-port in [exporter]: belongs in [node]"),
        ('[node]\nhost = "::"', "line 2: host in [node]: belongs at the top"),
        ("[node]\napi_port = 1", "line 2: api_port in [node]: expected api-port"),
        ('config = "other.toml"', "line 1: config: unknown"),
        ('[node]\nqueue = "64"', "line 2: queue in [node]: expected a whole number"),
        ("[node]\nqueue = 1.5", "line 2: queue in [node]: expected a whole number"),
        ("[node]\nqueue = true", "line 2: queue in [node]: expected a whole number"),
        ("[node]\nqueue = 0", "line 2: queue in [node]: 0 is not in the range 1<=x<="),
        ("[node]\nload-seconds = nan", "line 2: load-seconds in [node]: nan is not a finite"),
        ("[node]\nload-seconds = 1" + "0" * 400, "line 2: load-seconds in [node]: int too large"),
        (f"[node]\nqueue = 0x{'f' * 9000}", "line 2: queue in [node]: Exceeds the limit"),
        ('[node]\nmodel = "a.gguf"', "line 2: model in [node]: expected a list of strings"),
        ("[node]\nmodel = [1]", "line 2: model in [node]: expected a list of strings"),
        ('[node]\nmodel = ["a,b"]', "line 2: model in [node]: 'a,b' contains a comma"),
        ('[node]\nmodel = ["\\u0000"]', "line 2: model in [node]: '\\x00' contains a comma or a"),
        ('[node]\ntls-key-file = "\\u0000"', "line 2: tls-key-file in [node]: embedded null byte"),
        ('[node]\nseed-nodes = ["b"]', "line 2: seed-nodes in [node]: 'b' is not host:port"),
        ("host = 1979-05-27", "line 1: host: expected a string in quotes"),
        ('[exporter]\nbuckets = "a=1"', "line 2: buckets in [exporter]: expected a table of lists"),
        ("[exporter.buckets]\na = 1", "line 1: buckets in [exporter]: the buckets of a are not"),
        ("[exporter]\nbuckets.a = [2, 1]", "line 2: buckets in [exporter]: the buckets of a are"),
        ("[exporter]\nsocket-group = []", "line 2: socket-group in [exporter]: expected a name"),
        ("[node]\nqueue = 1\nqueue = 2\n", "is not TOML: Cannot overwrite a value (at line 3"),
        ("queue", "is not TOML: Expected '=' after a key in a key/value pair (at end of document"),
        ("x = " + "[" * 20_000, "is not TOML: "),
        (b"node-id = '\xff'", "is not TOML: 'utf-8' codec"),
    ],
)
def test_fault_is_one_line_with_file_line_and_key(
    read: Read, tmp_path: Path, text: str | bytes, says: str
) -> None:
    """Each mistake is reported with its place and with what is expected there."""
    with pytest.raises(UsageError) as refused:
        read(AgentSettings, text)
    assert str(tmp_path / "config.toml") in str(refused.value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_key_of_the_other_process_belongs_in_its_table(read: Read) -> None:
    """A setting of the node in the exporter's table is refused, with the place where it belongs."""
    with pytest.raises(UsageError, match=r"line 1: api-port: unknown; .* \[node\] or \[exporter\]"):
        read(ExporterSettings, "api-port = 1")


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_unreadable_file_is_refused(tmp_path: Path, path: str) -> None:
    """A file that cannot be read is named together with the flag."""
    with pytest.raises(UsageError, match="--config"):
        AgentSettings.read("agent", [f"--config={tmp_path / path}"], "about")
