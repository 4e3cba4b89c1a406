"""The rules that the Kubernetes files keep, on the objects as kustomize renders them."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployments.prometheus.kubernetes import NAMESPACE
from exporter.metrics.catalogue.families import FAMILIES
from exporter.settings import ExporterSettings
from node.settings import NodeSettings
from shared.settings.base import Settings
from shared.settings.declaration import declarations
from shared.settings.kinds import NODE_ID
from tests.deployments.dockerfile import ROOT, read_stages
from tests.deployments.manifests import (
    NODE,
    OVERLAYS,
    VARIANTS,
    Manifest,
    containers,
    named,
    of_kind,
    pods,
    render,
    selects,
    workload,
)
from tests.hub import Hub, open_hub
from tests.processes import PREFIX

VERSIONS = ("1.35", "1.36", "1.37")
FOREIGN = {"PodMonitor", "ScaledObject"}
"""Kinds of operators: their schemas are installed with them and are no part of Kubernetes'."""
SETTINGS: dict[str, type[Settings]] = {"node": NodeSettings, "exporter": ExporterSettings}
END_SECONDS = 10.0
"""What each process needs to end beyond the drain, as the agent has it."""

overlays = pytest.mark.parametrize("overlay", VARIANTS)


def node_pod(overlay: str) -> Manifest:
    pod: Manifest = workload(render(overlay))["spec"]["template"]
    return pod


def flags(container: Manifest) -> list[str]:
    """Give a container's arguments, what its environment fills in filled in."""
    return [re.sub(r"\$\(\w+\)", "value", argument) for argument in container["args"]]


def read_settings(name: str, container: Manifest) -> Any:
    return SETTINGS[name].read(name, flags(container), "about")


@pytest.mark.parametrize("version", VERSIONS)
@overlays
def test_schemas_of_current_versions_hold(overlay: str, version: str) -> None:
    """Every object is valid to the letter: no unknown field, no wrong type."""
    built_in = [each for each in render(overlay) if each["kind"] not in FOREIGN]
    for manifest in built_in:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_operators_kinds_are_optional() -> None:
    """What needs an operator is in no overlay, only in a component that one adds."""
    assert not any(of_kind(render(overlay), *FOREIGN) for overlay in OVERLAYS)
    (added,) = of_kind(render("local+autoscaling-keda"), *FOREIGN)
    assert added["kind"] == "ScaledObject"
    assert added["metadata"]["namespace"] == "distributed-llm"


@overlays
def test_files_that_flags_name_are_mounted(overlay: str) -> None:
    """A file below /etc/distributed-llm is in a volume of the container that reads it."""
    named_files = 0
    for container in containers(node_pod(overlay)).values():
        mounts = {Path(mount["mountPath"]) for mount in container.get("volumeMounts", ())}
        for flag in container.get("args", ()):
            path = Path(flag.partition("=")[2])
            if path.is_relative_to("/etc/distributed-llm"):
                assert path.parent in mounts
                named_files += 1
    assert named_files or not {"tls", "mesh"} & {*overlay.split("+")}


@overlays
def test_pods_keep_the_restricted_standard(overlay: str) -> None:
    """Pod Security Standards, restricted, and beyond it a root that cannot be written."""
    manifests = render(overlay)
    labels = named(manifests, "Namespace", "distributed-llm")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    allowed = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected"}
    for pod in pods(manifests):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(allowed & volume.keys() for volume in spec["volumes"])
        for container in containers(pod).values():
            context = spec["securityContext"] | container["securityContext"]
            assert context["runAsUser"] > 0
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount"} & context.keys()
            assert not any("hostPort" in port for port in container.get("ports", ()))
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@overlays
def test_pods_have_no_token_and_no_foreign_variables(overlay: str) -> None:
    """Nobody asks the API server; and a Service's variables would be taken for settings."""
    manifests = render(overlay)
    for pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False
        account = named(manifests, "ServiceAccount", pod["spec"]["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False


@overlays
def test_metrics_can_neither_hold_the_node_back_nor_take_it_away(overlay: str) -> None:
    """The exporter is a native sidecar with one probe: that its loop turns."""
    (sidecar,) = node_pod(overlay)["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert not {"readinessProbe", "startupProbe"} & sidecar.keys()
    assert sidecar["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics"}


@overlays
def test_nodes_probes_follow_its_health(overlay: str) -> None:
    """Readiness is `/health`; start and life are the loop's, for the node mends its engines.

    With the component that gives the API a certificate, the kubelet asks by HTTPS.
    """
    node = containers(node_pod(overlay))["node"]
    tls = read_settings("node", node).tls_cert_file is not None
    assert tls is ("tls" in overlay.split("+"))
    asked = {"port": "api"} | ({"scheme": "HTTPS"} if tls else {})
    assert node["readinessProbe"]["httpGet"] == {"path": "/health"} | asked
    for probe in ("startupProbe", "livenessProbe"):
        assert node[probe]["httpGet"] == {"path": "/livez"} | asked
        assert node[probe]["failureThreshold"] * node[probe]["periodSeconds"] >= 30


@overlays
def test_graces_are_in_order(overlay: str) -> None:
    """The pod's grace is above preStop, drain and the ends of both processes together."""
    pod = node_pod(overlay)
    node = containers(pod)["node"]
    settings = read_settings("node", node)
    prestop = node["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = node["readinessProbe"]
    assert prestop > 0
    # A proxy that looks at readiness itself notices the drain before it ends.
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.drain_seconds
    needed = prestop + settings.drain_seconds + 2 * END_SECONDS
    assert pod["spec"]["terminationGracePeriodSeconds"] > needed


@overlays
def test_discovery_annotations_agree_with_the_code(overlay: str) -> None:
    """Prometheus finds the pod where the exporter listens."""
    pod = node_pod(overlay)
    port = str(ExporterSettings().metrics_port)
    assert pod["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }
    (metrics,) = containers(pod)["exporter"]["ports"]
    assert (metrics["name"], str(metrics["containerPort"])) == ("metrics", port)
    assert read_settings("exporter", containers(pod)["exporter"]).metrics_port == int(port)


@overlays
def test_containers_are_told_what_they_understand(overlay: str) -> None:
    """Each flag and each variable of ours is a setting of the process that gets it."""
    for name, container in containers(node_pod(overlay)).items():
        settings = read_settings(name, container)
        known = declarations(SETTINGS[name]).keys()
        ours = [v["name"] for v in container["env"] if v["name"].startswith("DISTRIBUTED_LLM_")]
        assert {variable.removeprefix("DISTRIBUTED_LLM_").lower() for variable in ours} <= known
        assert settings.host == "0.0.0.0"  # noqa: S104
        given = [flag.partition("=")[0] for flag in container["args"]]
        assert len(given) == len(set(given))
        filled = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert filled <= {variable["name"] for variable in container["env"]}
    node = containers(node_pod(overlay))["node"]
    assert {port["name"]: port["containerPort"] for port in node["ports"]} == {
        "api": NodeSettings().api_port,
        "mesh": NodeSettings().mesh_port,
    }


@overlays
def test_node_ids_are_stable_and_valid(overlay: str) -> None:
    """A restarted pod has its name again: that of the StatefulSet's pod, or of the machine."""
    template = node_pod(overlay)
    kind = workload(render(overlay))["kind"]
    field = "metadata.name" if kind == "StatefulSet" else "spec.nodeName"
    for container in containers(template).values():
        variable = container["env"][0]
        assert variable["name"] == "DISTRIBUTED_LLM_NODE_ID"
        assert variable["valueFrom"] == {"fieldRef": {"fieldPath": field}}
    assert NODE_ID.fullmatch("distributed-llm-node-0")


@overlays
def test_users_are_the_images(overlay: str) -> None:
    """Two users, one group, as the images have them: node and exporter share only the socket."""
    pod = node_pod(overlay)
    group = pod["spec"]["securityContext"]["runAsGroup"]
    assert pod["spec"]["securityContext"]["fsGroup"] == group
    for name, container in containers(pod).items():
        user = container["securityContext"]["runAsUser"]
        assert read_stages(name)[-1].values("USER") == [f"{user}:{group}"]
    settings = read_settings("exporter", containers(pod)["exporter"])
    assert settings.socket_group == group


@overlays
def test_node_and_exporter_share_the_socket_and_nothing_else(overlay: str) -> None:
    """One volume is in both, the node only reads it, and both look for the socket in one place."""
    both = containers(node_pod(overlay))
    volumes = {
        name: {mount["name"]: mount for mount in container["volumeMounts"]}
        for name, container in both.items()
    }
    assert volumes["node"].keys() & volumes["exporter"].keys() == {"sockets"}
    assert volumes["node"]["sockets"]["readOnly"] is True
    node, exporter = (read_settings(name, both[name]) for name in ("node", "exporter"))
    assert node.socket_path == exporter.socket_path
    for settings, name in ((node, "node"), (exporter, "exporter")):
        place = volumes[name]["sockets"]["mountPath"]
        assert settings.runtime_dir.is_relative_to(place)
        assert str(settings.runtime_dir) != place  # the volume itself others may write


@overlays
def test_mounted_volumes_and_named_objects_exist(overlay: str) -> None:
    """Each mount has its volume, each claim is in the overlay, each file is below a mount."""
    manifests = render(overlay)
    for pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in containers(pod).values():
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
            files = re.findall(r"=(/\S+)", " ".join(container["args"]))
            assert files
            assert all(any(file.startswith(place) for place in mounts) for file in files)
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                named(manifests, "PersistentVolumeClaim", claim["claimName"])


@overlays
def test_model_is_read_only_at_run_time(overlay: str) -> None:
    """Only the download writes the model's volume."""
    for pod in pods(render(overlay)):
        download = pod["metadata"]["labels"]["app.kubernetes.io/component"] != "node"
        for container in containers(pod).values():
            for mount in container["volumeMounts"]:
                if mount["name"] == "models":
                    assert mount.get("readOnly", False) is not download


@overlays
def test_services_find_the_nodes(overlay: str) -> None:
    """The mesh's names list every pod, the API's only those that are ready."""
    manifests = render(overlay)
    mesh = named(manifests, "Service", "distributed-llm-mesh")["spec"]
    api = named(manifests, "Service", "distributed-llm-api")["spec"]
    assert mesh["clusterIP"] == "None"
    assert mesh["publishNotReadyAddresses"] is True
    assert not api.get("publishNotReadyAddresses", False)
    for pod in pods(manifests):
        is_node = pod["metadata"]["labels"].items() >= NODE.items()
        for service in (mesh, api):
            assert (service["selector"].items() <= pod["metadata"]["labels"].items()) is is_node
    node = containers(node_pod(overlay))["node"]
    ports = {port["name"]: port["containerPort"] for port in node["ports"]}
    for service in (mesh, api):
        (port,) = service["ports"]
        assert ports[port["targetPort"]] == port["port"]
    seeds = read_settings("node", node).seed_nodes
    assert seeds == (f"distributed-llm-mesh:{mesh['ports'][0]['port']}",)
    if workload(manifests)["kind"] == "StatefulSet":
        assert workload(manifests)["spec"]["serviceName"] == "distributed-llm-mesh"


@overlays
def test_disruptions_take_one_node_at_a_time(overlay: str) -> None:
    """Budget and anti-affinity mean the nodes, where there are either."""
    manifests = render(overlay)
    if workload(manifests)["kind"] == "DaemonSet":
        assert not of_kind(manifests, "PodDisruptionBudget")
        assert "affinity" not in node_pod(overlay)["spec"]
        return
    budget = named(manifests, "PodDisruptionBudget", "distributed-llm-node")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert selects(budget["selector"], node_pod(overlay))
    rules = node_pod(overlay)["spec"]["affinity"]["podAntiAffinity"]
    required = rules.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    terms = [*required, *(term["podAffinityTerm"] for term in preferred)]
    assert len(terms) == 1
    assert bool(required) is (overlay == "production")
    assert selects(terms[0]["labelSelector"], node_pod(overlay))


def allowed(manifests: list[Manifest], pod: Manifest, direction: str) -> dict[Any, list[Any]]:
    """Return the peers that a pod may receive from or send to, by port."""
    found: dict[Any, list[Any]] = {}
    for policy in of_kind(manifests, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], pod):
            for rule in policy["spec"].get(direction, []):
                peers = rule.get("from" if direction == "ingress" else "to", ["anywhere"])
                for port in rule["ports"]:
                    found.setdefault(port["port"], []).extend(peers)
    return found


@overlays
def test_network_policies_mean_the_pods_that_they_name(overlay: str) -> None:
    """All is closed but metrics to monitoring, the mesh among nodes, the API to clients."""
    manifests = render(overlay)
    deny = named(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    nodes = {"podSelector": {"matchLabels": NODE}}
    clients: Any = "anywhere"
    if not overlay.startswith("local"):
        labels = {"distributed-llm/api-client": "true"}
        clients = {"namespaceSelector": {"matchLabels": labels}}
    names = ["monitoring", NAMESPACE]
    monitoring = {
        "matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": names}
        ]
    }
    pod = node_pod(overlay)
    ingress = allowed(manifests, pod, "ingress")
    assert ingress[9090] == [{"namespaceSelector": monitoring}]
    assert ingress[7946] == [nodes]
    assert len(ingress[8080]) == 2
    assert nodes in ingress[8080]
    assert clients in ingress[8080]
    assert allowed(manifests, pod, "egress").keys() == {53, 5353, 7946, 8080}
    ports = {
        port["containerPort"]
        for container in containers(pod).values()
        for port in container["ports"]
    }
    assert ingress.keys() == ports
    for policy in of_kind(manifests, "NetworkPolicy"):
        meant = [pod for pod in pods(manifests) if selects(policy["spec"]["podSelector"], pod)]
        assert meant, policy["metadata"]["name"]


def test_only_the_download_may_leave_the_cluster() -> None:
    """The nodes of the production overlay cannot be made to fetch from or send to anybody."""
    manifests = render("production")
    for pod in pods(manifests):
        download = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "model-download"
        egress = allowed(manifests, pod, "egress")
        assert (443 in egress) is download
        assert not download or not allowed(manifests, pod, "ingress")
        assert ("anywhere" in itertools.chain(*egress.values())) is download


def test_download_puts_the_model_where_the_nodes_look() -> None:
    """The Job's directory and file are the node's `--model`, both from one place."""
    manifests = render("production")
    job = named(manifests, "Job", "distributed-llm-model")["spec"]["template"]
    (download,) = containers(job).values()
    (config,) = of_kind(manifests, "ConfigMap")
    assert download["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    for name in re.findall(r"\$\((\w+)\)", " ".join(download["args"])):
        assert name in config["data"]
    assert "--local-dir=/models" in download["args"]
    node = containers(node_pod("production"))["node"]
    assert "--model=/models/$(MODEL_FILE)" in node["args"]
    (variable,) = [v for v in node["env"] if v["name"] == "MODEL_FILE"]
    assert variable["valueFrom"]["configMapKeyRef"]["name"] == config["metadata"]["name"]
    # On the image's PATH there need be nothing: the command is the one of its environment.
    entry = read_stages("node")[-1].command("ENTRYPOINT")[0]
    assert download["command"][0].rpartition("/")[0] == entry.rpartition("/")[0]


def test_autoscaling_follows_a_metric_that_there_is() -> None:
    """HPA and KEDA read the queue's depth by a name of the catalogue and scale the nodes."""
    names = {PREFIX + family.name for family in FAMILIES}
    (scaler,) = of_kind(render("local+autoscaling-hpa"), "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in names
    (scaled,) = of_kind(render("local+autoscaling-keda"), "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert set(re.findall(rf"{PREFIX}\w+", trigger["metadata"]["query"])) <= names
    for target in (scaler["spec"]["scaleTargetRef"], scaled["spec"]["scaleTargetRef"]):
        named(render("local"), target["kind"], target["name"])


def test_pod_monitor_finds_the_metrics() -> None:
    """For the Prometheus operator: the nodes' pods and a port that they name."""
    written = (ROOT / "deployments/prometheus/prometheus-operator.yaml").read_text()
    (monitor,) = of_kind(list(yaml.safe_load_all(written)), "PodMonitor")
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == ["distributed-llm"]
    assert selects(monitor["spec"]["selector"], node_pod("local"))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {port["name"] for port in containers(node_pod("local"))["exporter"]["ports"]}
    assert endpoint["port"] in ports


def test_download_fetches_the_model_by_its_own_command(tmp_path: Path) -> None:
    """The Job's command, with its own variables, puts the file where the nodes look."""
    manifests = render("production")
    job = named(manifests, "Job", "distributed-llm-model")["spec"]["template"]
    (download,) = containers(job).values()
    (config,) = of_kind(manifests, "ConfigMap")
    models = str(tmp_path / "models")
    environment = dict(config["data"]) | {
        variable["name"]: variable["value"].replace("/models", models)
        for variable in download["env"]
    }
    command = [
        re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word).replace("/models", models)
        for word in [*download["command"], *download["args"]]
    ]
    command[0] = command[0].replace("/opt/distributed-llm", sys.prefix)
    with open_hub(Hub(b"GGUF" * 5000)) as hub:
        done = subprocess.run(
            command,
            env=environment | {"HF_ENDPOINT": hub.url},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert Path(models, config["data"]["MODEL_FILE"]).read_bytes() == hub.content
