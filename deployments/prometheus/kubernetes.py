"""Generate the Kubernetes objects of Prometheus from the files that a local one reads."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import yaml

from deployments.prometheus.links import HERE

Object = dict[str, Any]

IMAGE: Final = "prom/prometheus:v3.13.2"
"""The current long-term release; deployments/versions.toml says since when."""
NAMESPACE: Final = "distributed-llm-monitoring"
NODES_NAMESPACE: Final = "distributed-llm"
NODES: Final = HERE.parent / "kubernetes" / "base"
_NAME: Final = "distributed-llm-prometheus"
_LABELS: Final = {"app.kubernetes.io/name": _NAME, "app.kubernetes.io/part-of": "distributed-llm"}
_PORT: Final = 9090
_NOBODY: Final = 65534
_HEAD: Final = """\
# Written by `just monitoring-files` from prometheus.yml, scrape-kubernetes.yml and rules/.
"""


def write_prometheus() -> str:
    """Return the objects of a Prometheus for a cluster that has none."""
    note = (
        "#\n"
        "#   kubectl apply -f deployments/prometheus/prometheus-k8s.yaml\n"
        "#\n"
        "# The same command applies a change: the pod is replaced when its configuration or its\n"
        f"# rules changed. The nodes' namespace, {NODES_NAMESPACE}, is in here too, because the\n"
        "# right to see pods is given in it and nowhere else.\n"
    )
    return _HEAD + note + _dump(_prometheus())


def write_operator() -> str:
    """Return the objects for users of the Prometheus Operator."""
    note = (
        "# For clusters with the Prometheus Operator, in place of prometheus-k8s.yaml. Add the\n"
        "# labels that your Prometheus selects by.\n"
    )
    return _HEAD + note + _dump(_operator())


def read_rules() -> dict[str, str]:
    """Return the rule files by name."""
    return {file.name: file.read_text() for file in sorted((HERE / "rules").glob("*.yaml"))}


def write_configuration() -> str:
    """Return the configuration for a cluster: the local one with discovered targets."""
    local = (HERE / "prometheus.yml").read_text()
    common = local[local.index("global:") : local.index("scrape_configs:")]
    return common + (HERE / "scrape-kubernetes.yml").read_text()


def _prometheus() -> Iterator[Object]:
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": _namespace()}
    yield _nodes_namespace()
    yield _object("v1", "ServiceAccount", automountServiceAccountToken=False)
    yield _role()
    yield _role_binding()
    yield _object("v1", "ConfigMap", data=_configuration())
    yield _object(
        "v1",
        "PersistentVolumeClaim",
        spec={
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}},
        },
    )
    yield _deployment()
    yield _object(
        "v1",
        "Service",
        spec={
            "type": "ClusterIP",
            "selector": _selector(),
            "ports": [{"name": "web", "port": _PORT, "targetPort": "web"}],
        },
    )


def _configuration() -> dict[str, str]:
    return {"prometheus.yml": write_configuration(), **read_rules()}


def _digest() -> str:
    """Return a digest of the configuration: Prometheus does not follow a ConfigMap by itself."""
    return hashlib.sha256(json.dumps(_configuration(), sort_keys=True).encode()).hexdigest()


def _nodes_namespace() -> Object:
    """Return the nodes' namespace exactly as their own files make it."""
    namespace: Object = yaml.safe_load((NODES / "namespace.yaml").read_text())
    for pairs in yaml.safe_load((NODES / "kustomization.yaml").read_text())["labels"]:
        namespace["metadata"]["labels"] |= pairs["pairs"]
    return namespace


def _namespace() -> Object:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"name": NAMESPACE, "labels": enforced}


def _role() -> Object:
    role = _object("rbac.authorization.k8s.io/v1", "Role", NODES_NAMESPACE)
    role["rules"] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    return role


def _role_binding() -> Object:
    binding = _object("rbac.authorization.k8s.io/v1", "RoleBinding", NODES_NAMESPACE)
    binding["roleRef"] = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": _NAME,
    }
    binding["subjects"] = [{"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}]
    return binding


def _deployment() -> Object:
    return _object(
        "apps/v1",
        "Deployment",
        spec={
            "replicas": 1,
            # The claim can be mounted only once: the new pod must wait for the old one to end.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _selector()},
            "template": {
                "metadata": {
                    "labels": dict(_LABELS),
                    "annotations": {"distributed-llm/configuration": _digest()},
                },
                "spec": {
                    "serviceAccountName": _NAME,
                    "automountServiceAccountToken": True,  # it queries the API server for pods
                    "enableServiceLinks": False,
                    # An interrupted write costs a replay of the log at the next start.
                    "terminationGracePeriodSeconds": 120,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": _NOBODY,
                        "runAsGroup": _NOBODY,
                        "fsGroup": _NOBODY,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container()],
                    "volumes": [
                        {"name": "config", "configMap": {"name": _NAME, "items": _files()}},
                        {"name": "data", "persistentVolumeClaim": {"claimName": _NAME}},
                    ],
                },
            },
        },
    )


def _container() -> Object:
    return {
        "name": _NAME,
        "image": IMAGE,
        "args": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=15d",
            "--storage.tsdb.retention.size=8GB",  # of the claim's 10 GiB: the log needs room too
            "--enable-feature=exemplar-storage",
        ],
        "ports": [{"name": "web", "containerPort": _PORT}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("/-/ready", failureThreshold=60, periodSeconds=5),
        "readinessProbe": _probe("/-/ready", periodSeconds=10),
        "livenessProbe": _probe("/-/healthy", periodSeconds=15, failureThreshold=4),
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus", "readOnly": True},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }


def _files() -> list[Object]:
    """Return the path of each key of the ConfigMap, as beside a local Prometheus."""
    rules = [{"key": name, "path": f"rules/{name}"} for name in read_rules()]
    return [{"key": "prometheus.yml", "path": "prometheus.yml"}, *rules]


def _probe(path: str, **timing: int) -> Object:
    return {"httpGet": {"path": path, "port": "web"}, "timeoutSeconds": 5, **timing}


def _selector() -> dict[str, str]:
    return {"app.kubernetes.io/name": _NAME}


def _operator() -> Iterator[Object]:
    monitor = _object("monitoring.coreos.com/v1", "PodMonitor", NODES_NAMESPACE, "distributed-llm")
    monitor["spec"] = {
        "namespaceSelector": {"matchNames": [NODES_NAMESPACE]},
        "selector": {
            "matchLabels": {
                "app.kubernetes.io/name": "distributed-llm",
                "app.kubernetes.io/component": "node",
            }
        },
        "podMetricsEndpoints": [
            {
                "port": "metrics",
                "path": "/metrics",
                "interval": "15s",
                # The job name that alerts and dashboard use, and the machine of the pod.
                "relabelings": [
                    {"targetLabel": "job", "replacement": "distributed-llm-agents"},
                    {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"},
                ],
            }
        ],
    }
    yield monitor
    rule = _object("monitoring.coreos.com/v1", "PrometheusRule", NODES_NAMESPACE, "distributed-llm")
    groups = [yaml.safe_load(text)["groups"] for text in read_rules().values()]
    rule["spec"] = {"groups": [group for file in groups for group in file]}
    yield rule


def _object(
    version: str, kind: str, namespace: str = NAMESPACE, name: str = _NAME, **rest: Any
) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": dict(_LABELS)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


class _Dumper(yaml.SafeDumper):
    """Write multi-line texts as blocks, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write all files."""
        del data
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def _dump(objects: Iterator[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=100)
