"""A request is one trace over HTTP, gRPC and two nodes, whatever the collector does."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from node.demo import MODEL_PATH
from shared.events.trace import TraceContext
from tests import grpc_client
from tests.batches import Emitter
from tests.builders import finished
from tests.collector import Collector, collecting
from tests.processes import Pair, free_port, scrape, value, wait_for

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
ENDED = msgspec.structs.replace(
    finished(), request_id="r", trace=TraceContext("1" * 32, "2" * 16), ended_at=1.7e9
)


def by_id(collector: Collector) -> dict[str, tuple[str, Span]]:
    """Return the node and the span of each id."""
    return {span.span_id.hex(): (node, span) for node, span in collector.spans}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.slow
def test_trace_goes_over_two_nodes(tmp_path: Path) -> None:
    """A forwarded request is one trace: caller, request, forward, request on the peer, phases."""
    seed = free_port()
    with collecting() as collector, contextlib.ExitStack() as stack:

        def start(node_id: str, port: int, model: str) -> str:
            pair = Pair(tmp_path / node_id)
            flags = [f"--node-id={node_id}", f"--otlp-endpoint={collector.url}"]
            log = f"--request-log={tmp_path / node_id}.log"
            stack.enter_context(pair.exporter(*flags, log))
            mesh = [f"--mesh-port={port}", f"--seed-nodes=127.0.0.1:{seed}"]
            return stack.enter_context(pair.node(flags[0], f"--model={model}", *mesh)).url

        front = start("front", seed, f"own={MODEL_PATH}")
        start("back", 0, f"story={MODEL_PATH}")
        wait_for(lambda: "story" in httpx.get(f"{front}/v1/models").text, 60)
        asked = {"model": "story", "prompt": "Once", "max_tokens": 3, "temperature": 0}
        headers = {"traceparent": TRACEPARENT, "x-request-id": "over-two-nodes"}
        answer = httpx.post(f"{front}/v1/completions", json=asked, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert "traceparent" not in answer.headers
        wait_for(lambda: len(collector.spans) >= 7, 60)
        found = by_id(collector)
        assert {span.trace_id.hex() for _, span in found.values()} == {TRACE_ID}
        where = [(node, span.name) for node, span in found.values()]
        name = "text_completion story"
        assert sorted(where) == [
            ("back", "decode"),
            ("back", "prefill"),
            ("back", "queue"),
            ("back", name),
            ("front", "forward"),
            ("front", "queue"),
            ("front", name),
        ]
        (decode,) = (span for _, span in found.values() if span.name == "decode")
        assert list(_ancestors(decode, found)) == [
            ("back", name),
            ("front", "forward"),
            ("front", name),
            ("", CALLER),
        ]
        lines = {
            node: msgspec.json.decode((tmp_path / f"{node}.log").read_bytes())
            for node in ("front", "back")
        }
        assert lines["front"]["forwarded_to"] == "back"
        assert lines["back"]["forwarded_to"] is None
        for line in lines.values():
            assert (line["request_id"], line["trace_id"]) == ("over-two-nodes", TRACE_ID)
            assert (line["route"], line["status"]) == ("/v1/completions", "ok")
            assert line["generated_tokens"] == 3


def _ancestors(span: Span, found: dict[str, tuple[str, Span]]) -> Iterator[tuple[str, str]]:
    parent_id = span.parent_span_id.hex()
    while parent_id in found:
        node, parent = found[parent_id]
        yield node, parent.name
        parent_id = parent.parent_span_id.hex()
    yield "", parent_id


@pytest.mark.slow
def test_every_protocol_takes_a_trace(pair: Pair) -> None:
    """HTTP and gRPC take `traceparent`; without one the trace has the generated request's id."""
    with (
        collecting() as collector,
        pair.exporter(f"--otlp-endpoint={collector.url}") as exporter,
        pair.node() as node,
    ):
        with grpc_client.connect(node.url) as client:
            client.inference.Generate(
                grpc_client.ask(max_tokens=1), metadata=[("traceparent", TRACEPARENT)]
            )
        url, body = f"{node.url}/v1/completions", {"prompt": "x", "max_tokens": 1}
        not_sampled = {"traceparent": f"{TRACEPARENT[:-2]}00"}
        httpx.post(url, json=body, headers=not_sampled, timeout=60)
        begun = httpx.post(url, json=body, timeout=60)
        wait_for(lambda: len(collector.spans) == 8, 60)
        requests = [span for _, span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
        told = {each.key: each.value.string_value for each in requests[0].attributes}
        assert told["rpc.method"] == "distributed_llm.v1.Inference/Generate"
        assert [span.trace_id.hex() for span in requests] == [
            TRACE_ID,
            begun.headers["x-request-id"],
        ]
        assert [span.parent_span_id.hex() for span in requests] == [CALLER, ""]
        accept = {"accept": "application/openmetrics-text"}
        shown = httpx.get(f"{exporter.url}/metrics", headers=accept).text
        assert f'trace_id="{begun.headers["x-request-id"]}"' in shown
        assert value(scrape(exporter.url), "inference_requests_total", status="ok") == 3


def test_collector_that_is_dead_or_hangs_disturbs_nothing(pair: Pair) -> None:
    """Requests count and scrapes are answered; what was not sent is counted, and said once."""
    with collecting() as collector:
        collector.hangs = True
        with pair.exporter(f"--otlp-endpoint={collector.url}") as exporter:
            node = Emitter(pair.directory)
            node.send(ENDED)
            assert collector.called.wait(60)
            for number in range(1, 4):
                node.send(*[ENDED] * 1000)
                samples = scrape(exporter.url)
                counted = value(samples, "inference_requests_total", status="ok")
                assert counted == 1 + 1000 * number
            dropped = "exporter_spans_dropped_total"
            wait_for(lambda: value(scrape(exporter.url), dropped, reason="queue_full"))
            node.close()
            assert exporter.end() == 0
            log = exporter.log.read_text()
            assert log.count("spans are dropped") == 1


@pytest.mark.slow
def test_collector_that_is_away_costs_its_spans_only(pair: Pair) -> None:
    """Without a collector, spans are counted as dropped, and one line names the address."""
    url = f"http://127.0.0.1:{free_port()}"
    with pair.exporter(f"--otlp-endpoint={url}") as exporter:
        node = Emitter(pair.directory)
        node.send(ENDED)
        dropped = "exporter_spans_dropped_total"
        wait_for(lambda: value(scrape(exporter.url), dropped, reason="failed") == 4, 60)
        node.close()
        log = exporter.log.read_text()
        assert log.count(f"{url} does not accept spans") == 1
        assert "Transient error" not in log


def test_missing_library_is_one_line(pair: Pair) -> None:
    """Without OpenTelemetry the exporter says what to install."""
    without = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from exporter.__main__ import main; main()"
    )
    flags = [*pair.flags, "--metrics-port=0", "--otlp-endpoint=http://127.0.0.1:1"]
    told = subprocess.run(
        [sys.executable, "-c", without, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1
    assert "pip install 'distributed-llm[traces]'" in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr
