"""The pod as rendered, run without a cluster: two users, one socket, and a drain with a stream."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from tests import random_models
from tests.bench.random_model import CONTEXT_TOKENS, random_model
from tests.deployments.manifests import containers, render, workload
from tests.deployments.pod import Pod, missing, open_pod
from tests.processes import scrape, stream, value, wait_for

TEMPLATE = "local"
STREAM_SECONDS = 15.0
"""Three times preStop, and at half of the speed still within the drain."""
SAMPLE_TOKENS = 40
MESH_SECRET = "a secret of the mesh in this test"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> str:
    """The overlay, with the components that a test names."""
    return getattr(request, "param", TEMPLATE)


@pytest.fixture
def pod(variant: str) -> Iterator[Pod]:
    """A pod of a variant in a directory that every user may pass through."""
    template = workload(render(variant))["spec"]["template"]
    with tempfile.TemporaryDirectory(prefix="pod-") as made:
        Path(made).chmod(0o755)
        with open_pod(template, Path(made)) as opened:
            yield opened


def test_pod_serves_is_counted_and_drains_with_a_stream_running(pod: Pod) -> None:
    """From the sidecar's start to its end, in the manifest's own words.

    A stream that runs when the pod is told to go is told to its end; nothing new is let in; the
    exporter counts it all, outlives the node, and the whole takes less than the grace.
    """
    spec = workload(render(TEMPLATE))["spec"]["template"]["spec"]
    told = containers({"spec": spec})
    pod.write_secret("mesh", "secret", MESH_SECRET)
    model = random_model()
    with pod.start("exporter") as exporter, pod.inside():
        # Nothing waits for the sidecar: it has no startup probe.
        with pod.start("node", f"--model={model}", binds=(model.parent,)) as node:
            node.wait_until(told["node"]["startupProbe"], seconds=60)
            node.wait_until(told["node"]["readinessProbe"], seconds=60)
            exporter.wait_until(told["exporter"]["livenessProbe"], seconds=60)
            metrics = exporter.url("metrics")
            wait_for(lambda: value(scrape(metrics), "node_up", node_id="distributed-llm-node-0"))

            tokens, seconds = _fit(STREAM_SECONDS, node.url("api"))
            answer = stream(node.url("api"), max_tokens=tokens, temperature=0)
            chunks = [next(answer)]
            began = time.monotonic()
            pre_stop = told["node"]["lifecycle"]["preStop"]["sleep"]["seconds"]
            time.sleep(min(pre_stop, seconds / 3))
            assert node.probe(told["node"]["readinessProbe"])  # proxies are still finding out
            node.terminate()
            wait_for(lambda: not node.probe(told["node"]["readinessProbe"]), seconds=5)
            assert node.probe(told["node"]["livenessProbe"])
            refused = httpx.post(f"{node.url('api')}/v1/completions", json={"prompt": "Once"})
            assert refused.status_code == 503
            chunks += answer
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
            assert node.wait(30) == 0

        assert exporter.alive
        assert exporter.probe(told["exporter"]["livenessProbe"])
        samples = scrape(metrics)
        assert value(samples, "node_up", node_id="distributed-llm-node-0") == 0
        assert value(samples, "inference_requests_total", status="ok") == 2
        assert value(samples, "inference_tokens_generated_total") == SAMPLE_TOKENS + tokens
        assert value(samples, "telemetry_events_lost") in (0, None)
        assert "said goodbye" in exporter.log.read_text()
        exporter.terminate()
        assert exporter.wait(30) == 0
        assert time.monotonic() - began < spec["terminationGracePeriodSeconds"]


def test_pod_runs_llama_cpp(pod: Pod) -> None:
    """An engine has its socket in a place of the node's own: the telemetry socket's may be read."""
    pod.write_secret("mesh", "secret", MESH_SECRET)
    model = random_models.random_model("qwen3")
    with (
        pod.start("exporter"),
        pod.inside(),
        pod.start("node", f"--model={model}", binds=(model.parent,)) as node,
    ):
        wait_for(lambda: "is ready" in node.log.read_text(), seconds=60)
        assert list(stream(node.url("api"), max_tokens=4))


def _fit(seconds: float, url: str) -> tuple[int, float]:
    """Return how many tokens take about this long here, at most what fits, and their seconds."""
    times = [time.monotonic() for _ in stream(url, max_tokens=SAMPLE_TOKENS, temperature=0)]
    rate = len(times) / (times[-1] - times[0])
    tokens = min(int(seconds * rate), CONTEXT_TOKENS - 100)
    return tokens, tokens / rate


@pytest.mark.parametrize("variant", [f"{TEMPLATE}+tls+api-keys"], indirect=True)
def test_containers_can_do_no_more_than_they_must(pod: Pod, variant: str) -> None:
    """A taken-over node reaches the socket, and neither replaces it nor writes anything else.

    The probes are answered over TLS, without a key; the secrets can be read and not written.
    """
    told = containers(workload(render(variant))["spec"]["template"])
    certificate = trustme.CA().issue_cert("distributed-llm-api")
    pod.write_secret("mesh", "secret", MESH_SECRET)
    pod.write_secret("tls", "tls.crt", certificate.cert_chain_pems[0].bytes().decode())
    pod.write_secret("tls", "tls.key", certificate.private_key_pem.bytes().decode())
    pod.write_secret("api-keys", "keys", "sk-a-key\n")
    socket = "/run/distributed-llm/telemetry/telemetry.sock"
    with pod.start("exporter") as exporter, pod.start("node") as node:
        wait_for(lambda: "is ready" in node.log.read_text(), seconds=60)
        with pod.inside():
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                node.wait_until(told["node"][probe], seconds=30)
        assert node.run("/usr/bin/touch", "/etc/distributed-llm/tls/tls.key") != 0
        # Connecting needs that. The exporter may be later than the node.
        wait_for(lambda: node.run("/usr/bin/test", "-w", socket) == 0)
        assert node.run("/usr/bin/rm", socket) != 0
        assert node.run("/usr/bin/touch", "/run/distributed-llm/telemetry/other") != 0
        assert node.run("/usr/bin/test", "-e", "/var/lib/distributed-llm/journal") != 0
        assert node.run("/usr/bin/touch", "/var/lib/distributed-llm/mine") == 0
        for container in (node, exporter):
            status = Path(f"/proc/{container.pid}/status").read_text()
            assert "\nNoNewPrivs:\t1\n" in status
            assert "\nCapEff:\t0000000000000000\n" in status
            for place in ("/", "/tmp", "/opt/distributed-llm", "/etc"):  # noqa: S108
                assert container.run("/usr/bin/touch", f"{place}/mine") != 0
        tail = ["/opt/distributed-llm/bin/distributed-llm-exporter", "tail", "--count=1"]
        place = "--runtime-dir=/run/distributed-llm/telemetry"
        assert exporter.run(*tail, place) == 0
        assert node.run(*tail, place) != 0  # what is told is the exporter's to show
        # Nor may somebody of another group reach the socket.
        node.user = "10003:10003"
        assert node.run("/usr/bin/test", "-w", socket) != 0
