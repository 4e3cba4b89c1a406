"""The compose file: true to the specification, and to the code and images that it starts."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import compose_spec
import pytest
import yaml

from deployments.prometheus import kubernetes
from exporter.settings import ExporterSettings
from node.settings import NodeSettings
from shared.settings.base import Settings
from tests.deployments.dockerfile import ROOT, read_stages

FILE: Final = ROOT / "deployments" / "compose.yaml"
NODES: Final = ("1", "2", "3")
SETTINGS: Final[dict[str, type[Settings]]] = {"node": NodeSettings, "exporter": ExporterSettings}


@functools.cache
def compose() -> dict[str, Any]:
    """Read the file with its anchors, merged as compose does."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def read_settings(kind: str, number: str) -> Any:
    return SETTINGS[kind].read(kind, service(f"{kind}{number}")["command"], "about")


def test_file_is_one_of_the_specification() -> None:
    """No unknown key, no value of a wrong form."""
    # The reader of the specification does not merge YAML's anchors, which compose does.
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose(), sort_keys=False))


def test_every_name_has_what_it_names() -> None:
    """Volumes, configurations, services and files that are referred to exist."""
    whole = compose()
    for name, told in whole["services"].items():
        for volume in told.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FILE.parent / source).resolve(strict=True).is_relative_to(ROOT), name
            else:
                assert source in whole["volumes"], name
        assert all(config["source"] in whole["configs"] for config in told.get("configs", ()))
        assert set(told.get("depends_on", ())) <= whole["services"].keys()
        way, _, owner = told.get("network_mode", "").partition(":")
        assert way != "service" or owner in whole["services"]
        if built := told.get("build"):
            assert (FILE.parent / built["context"]).resolve() == ROOT
            assert (ROOT / built["dockerfile"]).is_file()
            (argument,) = built["args"]
            assert f"ARG {argument}\n" in (ROOT / built["dockerfile"]).read_text()


@pytest.mark.parametrize("number", NODES)
def test_pair_is_told_what_it_understands(number: str) -> None:
    """Flags are settings, ports are their ports, and both look for the socket in one place."""
    node, exporter = read_settings("node", number), read_settings("exporter", number)
    assert node.node_id == f"node{number}"
    inside = {int(port.rsplit(":", 1)[1]) for port in service(f"exporter{number}")["ports"]}
    assert inside == {node.api_port, exporter.metrics_port}
    runtime = {
        read_stages(kind)[-1].environment()["RUNTIME_DIRECTORY"] for kind in ("node", "exporter")
    }
    mounts = {
        kind: {
            part[1]: part
            for part in (volume.split(":") for volume in service(f"{kind}{number}")["volumes"])
        }
        for kind in ("node", "exporter")
    }
    (place,) = runtime
    assert mounts["node"][place] == [f"sockets{number}", place, "ro"]
    assert mounts["exporter"][place] == [f"sockets{number}", place]
    group = read_stages("node")[-1].values("USER")[0].partition(":")[2]
    assert exporter.socket_group == int(group)
    shared = {part[0] for part in mounts["node"].values()} & {
        part[0] for part in mounts["exporter"].values()
    }
    assert shared == {f"sockets{number}"}


@pytest.mark.parametrize("number", NODES)
def test_exporter_outlives_its_node(number: str) -> None:
    """It owns the network of both, and the node waits for no more than that it was started."""
    assert service(f"node{number}")["network_mode"] == f"service:exporter{number}"
    assert service(f"node{number}")["depends_on"][f"exporter{number}"] == {
        "condition": "service_started"
    }
    assert "ports" not in service(f"node{number}")


@pytest.mark.parametrize("number", NODES)
def test_node_gets_time_to_drain_and_knows_its_peers(number: str) -> None:
    """The grace is above the drain; the seeds are the other nodes, by names of the network."""
    settings = read_settings("node", number)
    grace = float(service(f"node{number}")["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_seconds + 10
    aliases = {
        alias: other
        for other in NODES
        for alias in service(f"exporter{other}")["networks"]["default"]["aliases"]
    }
    seeds = [seed.rpartition(":") for seed in settings.seed_nodes]
    assert {aliases[host] for host, _, _ in seeds} == set(NODES) - {number}
    assert {int(port) for _, _, port in seeds} == {settings.mesh_port}


def test_nothing_is_published_beyond_this_machine_and_nothing_twice() -> None:
    """Every published port is on loopback, and each is another."""
    published = [port for told in compose()["services"].values() for port in told.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    outside = [port.split(":")[1] for port in published]
    assert len(outside) == len(set(outside))
    assert {"3000", "8080", "9090", "9091"} <= set(outside)  # as the documentation names them


def test_mesh_has_one_secret_of_its_own(tmp_path: Path) -> None:
    """It is made once, long enough, where the nodes look for it, and they only read it."""
    told = service("secret")
    (volume,) = told["volumes"]
    name, place = volume.split(":")
    (program,) = told["command"]
    for _ in range(2):
        given = program.replace(place, str(tmp_path))
        subprocess.run([sys.executable, "-c", given], check=True)
        made = {file.name: file.read_text() for file in tmp_path.iterdir()}
        assert len(made["secret"]) == 64
        (tmp_path / "secret").write_text("f" * 64)  # the second run leaves it alone
    assert (tmp_path / "secret").read_text() == "f" * 64
    # The image's directory, which the new volume takes its owner from.
    assert place == read_stages("node")[-1].environment()["STATE_DIRECTORY"]
    for number in NODES:
        mounted = f"{name}:{read_settings('node', number).mesh_secret_file.parent}:ro"
        assert mounted in service(f"node{number}")["volumes"]
        ended = {"condition": "service_completed_successfully"}
        assert service(f"node{number}")["depends_on"]["secret"] == ended


def test_our_containers_are_as_hardened_as_the_pod() -> None:
    """A root that cannot be written, no capability, no new privileges."""
    for number in NODES:
        for kind in ("node", "exporter"):
            told = service(f"{kind}{number}")
            assert told["read_only"] is True
            assert told["cap_drop"] == ["ALL"]
            assert told["security_opt"] == ["no-new-privileges:true"]
            assert "user" not in told  # the image's


@pytest.mark.slow
def test_prometheus_scrapes_every_exporter(tmp_path: Path) -> None:
    """Its configuration names all three, and promtool has nothing against it."""
    written = compose()["configs"]["prometheus"]["content"]
    (job,) = yaml.safe_load(written)["scrape_configs"]
    (group,) = job["static_configs"]
    port = ExporterSettings().metrics_port
    assert group["targets"] == [f"exporter{number}:{port}" for number in NODES]
    if not shutil.which("promtool"):
        pytest.skip("promtool is not here (Debian: prometheus)")
    (tmp_path / "prometheus.yml").write_text(re.sub(r"/etc/prometheus/rules", "rules", written))
    (rules,) = [volume.split(":")[0] for volume in service("prometheus")["volumes"]][:1]
    shutil.copytree(FILE.parent / rules, tmp_path / "rules")
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_are_those_of_the_other_files() -> None:
    """Prometheus and Grafana are one version each, wherever they are started."""
    local = yaml.safe_load((FILE.parent / "local.yaml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        assert service(name)["image"] == local[name]["image"]
    assert service("prometheus")["image"] == kubernetes.IMAGE


def test_grafana_is_provisioned() -> None:
    """The data source is the Prometheus of this file, and the dashboard is where it looks."""
    for config in ("datasources", "dashboards"):
        assert (FILE.parent / compose()["configs"][config]["file"]).exists()
    told = service("grafana")["environment"]
    assert told["PROMETHEUS_URL"] == "http://prometheus:9090"
    mounted = [volume.split(":")[1] for volume in service("grafana")["volumes"]]
    assert any(place.startswith(told["DASHBOARDS_PATH"]) for place in mounted)
