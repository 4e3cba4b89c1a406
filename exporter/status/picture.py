"""Draws the picture of `/status` from the state, the history and the last health checks."""

import importlib.metadata
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from exporter.metrics.catalogue.engine import ENGINE_RESTARTS, ENGINE_SILENCE
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.mesh import PEER_STATUS
from exporter.metrics.catalogue.models import (
    LAYERS_ALLOCATED,
    MODEL_INFO,
    MODEL_LOAD_PROGRESS,
    MODEL_SIZE,
)
from exporter.metrics.catalogue.node import NODE_INFO, NODE_RESOURCES, NODE_UPTIME
from exporter.metrics.catalogue.requests import QUEUE_DEPTH, REQUESTS_IN_FLIGHT, SLOTS
from exporter.metrics.catalogue.system import CPU, MEMORY
from exporter.metrics.catalogue.telemetry import DROPPED, EMITTED, EVENTS
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Labels, Node
from exporter.metrics.state import Ended, State
from exporter.status import snapshot as s
from exporter.status.history import (
    NODES_KEPT,
    STEP_SECONDS,
    WINDOW_SECONDS,
    History,
    models_by_node,
    per_second,
)
from shared.events.node import NodeState
from shared.events.requests import InferenceFinished
from shared.settings.base import APPLICATION

MODELS_SHOWN: Final = 64
PEERS_SHOWN: Final = 64
_VERSION: Final = importlib.metadata.version(APPLICATION)
_PEER_STATES: Final[Mapping[float, NodeState]] = {
    0: "offline",
    1: "online",
    2: "busy",
    3: "unknown",
}
_SPEED_SECONDS: Final = STEP_SECONDS
_SHORTEST_SECONDS: Final = 0.05
"""Tokens reach the node in bundles, so a speed over a shorter time would be noise."""


class Painter:
    """Draws pictures of one state.

    Args:
        state: The series and nodes.
        history: Their last minutes.
        engine_silence_seconds: Work without progress for this long is a stall.
        now: The time on the exporter's monotonic clock.
    """

    def __init__(
        self, state: State, history: History, engine_silence_seconds: float, now: float
    ) -> None:
        self._state = state
        self._history = history
        self._engine_silence_seconds = engine_silence_seconds
        self._now = now
        self._models = models_by_node(state)
        self._facts = {
            labels[:owned]: dict(zip(family.labels[owned:], labels[owned:], strict=True))
            for family, owned in ((NODE_INFO, 1), (MODEL_INFO, 2))
            for labels in state.values(family)
        }

    def draw(self, health: dict[str, Any], uptime_seconds: float) -> s.Snapshot:
        """Return the picture of this moment.

        Args:
            health: The report of the health checks.
            uptime_seconds: Of this exporter.
        """
        nodes = [self._node(node) for node in list(self._state.nodes.values())[:NODES_KEPT]]
        lost = [
            f"node {node.node_id}: {node.telemetry.lost} telemetry events were lost"
            for node in nodes
            if node.telemetry.lost
        ]
        storage = self._state.storage
        return s.Snapshot(
            at=time.time(),
            health=health["status"] if health["status"] != "ok" or not lost else "degraded",
            problems=[*map(clean_label, health["reasons"]), *lost],
            exporter=s.Exporter(
                version=_VERSION,
                uptime_seconds=uptime_seconds,
                durable=storage.durable,
                failure=clean_label(storage.failure),
                window_seconds=WINDOW_SECONDS,
            ),
            nodes=nodes,
            nodes_left_out=len(self._state.nodes) - len(nodes),
            requests=[_request(ended) for ended in reversed(self._state.ended)],
        )

    def _node(self, node: Node) -> s.Node:
        node_id = node.node_id
        ids = self._models.get(node_id, [])
        facts = self._facts.get((node_id,), {})
        return s.Node(
            node_id=node_id,
            up=node.up,
            departed=node.departed and not node.up,
            state=node.state,
            silent_seconds=None if node.heard_at is None else self._now - node.heard_at,
            uptime_seconds=self._value(NODE_UPTIME, node_id),
            version=facts.get("version", ""),
            python=facts.get("python", ""),
            engine=facts.get("engine", ""),
            traffic=self._traffic([(node_id, model_id) for model_id in ids]),
            models=[self._model(node, model_id) for model_id in ids[:MODELS_SHOWN]],
            machine=self._machine(node_id),
            telemetry=self._proof(node),
            peers=self._peers(node),
            sparklines=self._sparklines(node_id),
        )

    def _model(self, node: Node, model_id: str) -> s.Model:
        key = (node.node_id, model_id)
        progress = self._progress(key)
        is_loaded = key in self._state.values(MODEL_SIZE)
        facts = self._facts.get(key, {})
        silent = self._value(ENGINE_SILENCE, *key) or 0.0
        return s.Model(
            model_id=model_id,
            state="loaded" if is_loaded else "unloaded" if progress is None else "loading",
            load_ratio=None if is_loaded else progress,
            architecture=facts.get("architecture", ""),
            quantization=facts.get("quantization", ""),
            size_bytes=self._value(MODEL_SIZE, *key) or 0,
            layers=int(self._value(LAYERS_ALLOCATED, *key) or 0),
            traffic=self._traffic([key]),
            silent_seconds=silent,
            stalled=silent > self._engine_silence_seconds,
            restarts={
                "crashed": int(self._value(ENGINE_RESTARTS, *key, "crashed") or 0),
                "stalled": int(self._value(ENGINE_RESTARTS, *key, "stalled") or 0),
            },
        )

    def _traffic(self, models: Sequence[Labels]) -> s.Traffic:
        window = self._history.growth(models, WINDOW_SECONDS, self._now)
        speed = self._history.growth(models, _SPEED_SECONDS, self._now)
        return s.Traffic(
            tokens_per_second=per_second(speed),
            first_token=s.FirstToken(
                p50_seconds=self._history.first_token(window, 0.5),
                p95_seconds=self._history.first_token(window, 0.95),
            ),
            ended=window.ended,
            in_flight=self._sum(REQUESTS_IN_FLIGHT, models),
            queued=self._sum(QUEUE_DEPTH, models),
            slots_busy=self._sum(SLOTS, models, "busy"),
            slots_total=self._sum(SLOTS, models, "total"),
        )

    def _machine(self, node_id: str) -> s.Machine:
        return s.Machine(
            cpu_cores=self._value(NODE_RESOURCES, node_id, "cpu_cores"),
            host_cpu_percent=self._value(CPU, node_id, "host"),
            node_cpu_percent=self._value(CPU, node_id, "node"),
            engine_cpu_percent=self._value(CPU, node_id, "engine"),
            node_bytes=self._value(MEMORY, node_id, "rss"),
            engine_bytes=self._value(MEMORY, node_id, "engine_rss"),
            available_bytes=self._value(MEMORY, node_id, "available"),
            total_bytes=self._value(MEMORY, node_id, "total"),
        )

    def _proof(self, node: Node) -> s.Proof:
        owner = (node.node_id,)
        return s.Proof(
            emitted=int(self._value(EMITTED, node.node_id) or 0),
            applied=int(_total(self._state.values(EVENTS), owner)),
            dropped=int(_total(self._state.values(DROPPED), owner)),
            lost=int(node.lost),
            lag_seconds=node.lag_seconds,
        )

    def _peers(self, node: Node) -> list[s.Peer]:
        peers = self._state.values(PEER_STATUS).items()
        return [
            s.Peer(
                node_id=peer, status=_PEER_STATES[code], page_url=_page(node.pages.get(peer, ""))
            )
            for (owner, peer), code in sorted(peers)
            if owner == node.node_id
        ][:PEERS_SHOWN]

    def _sparklines(self, node_id: str) -> s.Sparklines:
        lines = self._history.sparklines(node_id)
        return s.Sparklines(
            step_seconds=STEP_SECONDS,
            tokens_per_second=_rounded(lines.tokens_per_second),
            first_token_p95_seconds=_rounded(lines.first_token_p95_seconds),
            queued=_rounded(lines.queued),
            failed=_rounded(lines.failed),
        )

    def _progress(self, key: Labels) -> float | None:
        """Return how much of a model is read, or else downloaded."""
        read = self._value(MODEL_LOAD_PROGRESS, *key, "read")
        return self._value(MODEL_LOAD_PROGRESS, *key, "download") if read is None else read

    def _value(self, family: Family, *labels: str) -> float | None:
        return self._state.values(family).get(labels)

    def _sum(self, family: Family, models: Iterable[Labels], *rest: str) -> int:
        return int(sum(self._value(family, *key, *rest) or 0 for key in models))


def _page(url: str) -> str:
    """Return the URL of a page; empty for one that a browser must not follow."""
    return clean_label(url) if url.startswith(("http://", "https://")) else ""


def _total(series: Mapping[Labels, float], owner: Labels) -> float:
    return sum(value for labels, value in series.items() if labels[: len(owner)] == owner)


def _rounded(points: Iterable[float | None]) -> list[float | None]:
    """Round to what a sparkline can show."""
    return [None if point is None else round(point, 3) for point in points]


def _request(ended: Ended) -> s.Request:
    event = ended.event
    return s.Request(
        at=ended.at,
        node_id=ended.node_id,
        model_id=clean_label(event.model_id),
        request_id=clean_label(event.request_id),
        status=event.status,
        finish_reason=event.finish_reason,
        seconds=event.seconds,
        queue_seconds=event.queue_seconds,
        first_token_seconds=event.first_token_seconds,
        prompt_tokens=event.prompt_tokens,
        generated_tokens=event.generated_tokens,
        tokens_per_second=_speed(event),
        route=clean_label(event.route),
        reason=event.reason,
        resumed=event.resumed,
        trace_id=clean_label(event.trace.trace_id) if event.trace else "",
    )


def _speed(event: InferenceFinished) -> float | None:
    """Return the tokens per second after the first token; None where that says nothing."""
    if event.first_token_seconds is None or event.generated_tokens < 2:
        return None
    rest = event.seconds - event.first_token_seconds
    return (event.generated_tokens - 1) / rest if rest >= _SHORTEST_SECONDS else None
