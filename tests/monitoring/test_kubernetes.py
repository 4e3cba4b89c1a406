"""The objects for Kubernetes: current, valid, of least privilege, and finding the right address."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import httpx
import kubernetes_validate
import pytest
import yaml

from deployments.prometheus.kubernetes import (
    NAMESPACE,
    NODES_NAMESPACE,
    read_rules,
    write_configuration,
    write_operator,
    write_prometheus,
)
from tests.deployments.manifests import of_kind, render
from tests.monitoring.sources import PROMETHEUS
from tests.processes import wait_for
from tests.prometheus import configured_prometheus

VERSIONS: Final = ("1.35", "1.36", "1.37")
OBJECTS: Final = list(yaml.safe_load_all((PROMETHEUS / "prometheus-k8s.yaml").read_text()))
OPERATOR: Final = list(yaml.safe_load_all((PROMETHEUS / "prometheus-operator.yaml").read_text()))

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on PATH (Debian: apt-get install prometheus)",
)


def only(kind: str, objects: list[dict[str, Any]] = OBJECTS) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def test_objects_are_current() -> None:
    """The files are what is made of the configuration and the rules now."""
    assert (PROMETHEUS / "prometheus-k8s.yaml").read_text() == write_prometheus()
    assert (PROMETHEUS / "prometheus-operator.yaml").read_text() == write_operator()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("described", OBJECTS, ids=lambda each: each["kind"])
def test_objects_are_valid(version: str, described: dict[str, Any]) -> None:
    """Every object holds against the schemas of the version, without a field that is unknown."""
    kubernetes_validate.validate(described, version, strict=True)


def test_contract_is_kept() -> None:
    """The file makes what is promised: deployment, account, rights, claim and service."""
    kinds = [each["kind"] for each in OBJECTS]
    assert set(kinds) == {
        *("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap"),
        *("PersistentVolumeClaim", "Deployment", "Service"),
    }


def test_rights_are_the_least() -> None:
    """Prometheus may look at pods, in the nodes' namespace, and nothing else."""
    role = only("Role")
    assert role["metadata"]["namespace"] == NODES_NAMESPACE
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    (subject,) = only("RoleBinding")["subjects"]
    account = only("ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_pod_is_of_the_restricted_standard() -> None:
    """No root, no privilege, nothing to write but the data, bounded in CPU and memory."""
    pod = only("Deployment")["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert ":" in container["image"]
        assert not container["image"].endswith(":latest")
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        writable = [m["name"] for m in container["volumeMounts"] if not m.get("readOnly")]
        assert writable == ["data"]


def test_parts_fit_together() -> None:
    """Selectors, ports, claims and mounted files are those that the other objects have."""
    deployment, service = only("Deployment")["spec"], only("Service")["spec"]
    pod = deployment["template"]
    for selector in (deployment["selector"]["matchLabels"], service["selector"]):
        assert selector.items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert service["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    claim = volumes["data"]["persistentVolumeClaim"]["claimName"]
    assert claim == only("PersistentVolumeClaim")["metadata"]["name"]
    keys = {item["key"] for item in volumes["config"]["configMap"]["items"]}
    assert keys == set(only("ConfigMap")["data"]) == {"prometheus.yml", *read_rules()}
    arguments = " ".join(container["args"])
    assert "--storage.tsdb.retention.time=" in arguments
    assert "--storage.tsdb.retention.size=" in arguments


@pytest.mark.slow
@needs_prometheus
def test_configuration_is_sound_as_it_is_mounted(tmp_path: Path) -> None:
    """What the ConfigMap puts where the pod mounts it is a configuration with all rules."""
    config = only("ConfigMap")["data"]
    (volume,) = [v for v in _pod()["volumes"] if v["name"] == "config"]
    for item in volume["configMap"]["items"]:
        file = tmp_path / item["path"]
        file.parent.mkdir(exist_ok=True)
        file.write_text(config[item["key"]])
    main = tmp_path / "prometheus.yml"
    main.write_text(json.dumps(found_by_file(yaml.safe_load(main.read_text()), "pods.json")))
    done = subprocess.run(  # noqa: PLW1510
        ["promtool", "check", "config", str(main)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(read_rules())


def test_operator_gets_the_same_rules_and_job() -> None:
    """With the operator the alerts are the same, and their job has the name that they know."""
    groups = only("PrometheusRule", OPERATOR)["spec"]["groups"]
    ours = [group for text in read_rules().values() for group in yaml.safe_load(text)["groups"]]
    assert groups == ours
    (endpoint,) = only("PodMonitor", OPERATOR)["spec"]["podMetricsEndpoints"]
    made = {rule["targetLabel"]: rule.get("replacement") for rule in endpoint["relabelings"]}
    assert made == {"job": "distributed-llm-agents", "node": None}


def found_by_file(config: dict[str, Any], file: str) -> dict[str, Any]:
    """Have targets found in a file, where a cluster's Prometheus asks the API server.

    Debian's Prometheus is built without that discovery; all else stays as it is.
    """
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [
        {"role": "pod", "namespaces": {"names": [NODES_NAMESPACE]}}
    ]
    return config | {"scrape_configs": [job | {"file_sd_configs": [{"files": [file]}]}]}


def pod(name: str, ip: str, port: int | None, **more: str) -> list[dict[str, Any]]:
    """Give the targets that service discovery makes of a pod: one for each port, or one without.

    The labels are those of `kubernetes_sd_configs`, role pod.
    """
    host = f"[{ip}]" if ":" in ip else ip
    labels = {
        "__meta_kubernetes_namespace": NODES_NAMESPACE,
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_ip": ip,
        "__meta_kubernetes_pod_node_name": "worker-1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
        "__meta_kubernetes_pod_annotation_prometheus_io_port": "9090",
        "__meta_kubernetes_pod_annotation_prometheus_io_path": "/metrics",
    } | more
    if port is None:
        return [{"targets": [host], "labels": labels}]
    return [
        {
            "targets": [f"{host}:{each}"],
            "labels": labels
            | {
                "__meta_kubernetes_pod_container_port_number": str(each),
                "__meta_kubernetes_pod_container_port_name": f"p{each}",
                "__meta_kubernetes_pod_container_name": f"c{each}",
            },
        }
        for each in (port, 7946, 9090)
    ]


@pytest.mark.slow
@needs_prometheus
def test_addresses_are_found_by_annotation(tmp_path: Path) -> None:
    """A real Prometheus makes of each pod one target, by IPv4 and IPv6, whatever ports it has."""
    annotation = "__meta_kubernetes_pod_annotation_prometheus_io_"
    pods = [
        *pod("four", "192.0.2.7", 8080),
        *pod("six", "2001:db8::7", 8080),
        *pod("portless", "192.0.2.8", None),
        *pod("six-portless", "2001:db8::8", None),
        *pod(
            "other", "192.0.2.9", 8080, **{f"{annotation}port": "9191", f"{annotation}path": "/m"}
        ),
        *pod("tls", "192.0.2.10", 8080, **{f"{annotation}scheme": "https"}),
        *pod("unasked", "192.0.2.11", 8080, **{f"{annotation}scrape": "false"}),
        *pod("ended", "192.0.2.12", 8080, __meta_kubernetes_pod_phase="Succeeded"),
    ]
    (tmp_path / "pods.json").write_text(json.dumps(pods))
    config = found_by_file(yaml.safe_load(write_configuration()), str(tmp_path / "pods.json"))
    config["rule_files"] = []
    with configured_prometheus(tmp_path / "prometheus", config) as url:
        targets = wait_for(
            lambda: httpx.get(f"{url}/api/v1/targets?state=active").json()["data"]["activeTargets"]
        )
    found = {target["labels"]["pod"]: target for target in targets}
    assert len(found) == len(targets), "a pod has more than one target"
    assert {name: target["scrapeUrl"] for name, target in found.items()} == {
        "four": "http://192.0.2.7:9090/metrics",
        "six": "http://[2001:db8::7]:9090/metrics",
        "portless": "http://192.0.2.8:9090/metrics",
        "six-portless": "http://[2001:db8::8]:9090/metrics",
        "other": "http://192.0.2.9:9191/m",
        "tls": "https://192.0.2.10:9090/metrics",
    }
    assert found["six"]["labels"] == {
        "job": "distributed-llm-agents",
        "instance": "[2001:db8::7]:9090",
        "namespace": NODES_NAMESPACE,
        "pod": "six",
        "node": "worker-1",
    }


def _pod() -> dict[str, Any]:
    described: dict[str, Any] = only("Deployment")["spec"]["template"]["spec"]
    return described


def test_objects_are_ours_alone() -> None:
    """Every object is in a namespace of ours and named after us: nothing of others is replaced."""
    for each in OBJECTS:
        metadata = each["metadata"]
        assert metadata.get("namespace", metadata["name"]) in (NAMESPACE, NODES_NAMESPACE)
        assert metadata["name"].startswith("distributed-llm")


def test_nodes_namespace_is_the_same_in_both_places() -> None:
    """Applying either after the other changes nothing of the nodes' namespace."""
    (ours,) = [each for each in OBJECTS if each["metadata"]["name"] == NODES_NAMESPACE]
    (theirs,) = of_kind(render("production"), "Namespace")
    assert ours == theirs


def test_changed_rules_replace_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod's template changes with the rules, so that applying the file uses them."""
    before = list(yaml.safe_load_all(write_prometheus()))
    monkeypatch.setattr("deployments.prometheus.kubernetes.read_rules", lambda: {"a.yaml": "{}"})
    after = list(yaml.safe_load_all(write_prometheus()))
    templates = [only("Deployment", each)["spec"]["template"] for each in (before, after)]
    assert templates[0]["metadata"] != templates[1]["metadata"]
