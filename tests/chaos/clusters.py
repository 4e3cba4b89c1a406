"""Nodes of a mesh are killed under load: the clients of one node notice nothing."""

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import httpx
import psutil

from node.demo import MODEL_PATH
from tests.chaos.ground import quiet_port
from tests.chaos.processes import Process
from tests.chaos.rows import Row
from tests.processes import scrape, stream, text_of, value, wait_for

CONVERGED_SECONDS: Final = 3.0
_PEERS: Final = 4
_CLIENTS: Final = 3
_KILL_SECONDS: Final = 5.0
_START_SECONDS: Final = 120.0
_ANSWER_TOKENS: Final = 60
_QUESTIONS: Final = 8


class Agent:
    """An agent with a node and its exporter, on ports that stay the same across restarts."""

    def __init__(
        self,
        directory: Path,
        node_id: str,
        model: str,
        seed: str,
        further: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.api, self.metrics, self.mesh = quiet_port(), quiet_port(), quiet_port()
        self.node_id = node_id
        self.url = f"http://127.0.0.1:{self.api}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics}"
        place = directory / node_id
        place.mkdir()
        flags = {
            "node-id": node_id,
            "model": f"{model}={MODEL_PATH}",
            "api-port": self.api,
            "metrics-port": self.metrics,
            "mesh-port": self.mesh,
            "seed-nodes": seed or f"127.0.0.1:{self.mesh}",
            "runtime-dir": place / "run",
            "state-dir": place / "state",
            "threads": 1,
            **further,
        }
        command = ["node.agent", *(f"--{name}={given}" for name, given in flags.items())]
        self.process = Process(command, place / "log")

    def processes(self) -> dict[str, psutil.Process]:
        """Return the running processes by role: `agent`, `node`, `exporter`, `engine`."""
        agent = psutil.Process(self.process.process.pid)
        found = {"agent": agent}
        for child in agent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                module = dict(zip(child.cmdline(), child.cmdline()[1:], strict=False)).get("-m", "")
                role = "engine" if module.startswith("node.engine") else module
                if role in ("node", "exporter", "engine"):
                    found[role] = child
        return found

    def kill_node(self) -> None:
        """Kill the node but not its exporter; the agent restarts it."""
        if node := self.processes().get("node"):
            node.kill()

    def alive(self) -> set[str]:
        """Return the peers that the node sees as alive; none while the node does not answer."""
        try:
            known = httpx.get(f"{self.url}/cluster", timeout=2).json()["peers"]
        except (httpx.HTTPError, ValueError):
            return set()
        return {peer["node_id"] for peer in known if peer["state"] == "alive"}

    def serves(self) -> bool:
        """Return whether the node has its model."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


class Callers:
    """Requests streams from a node, one after the other, until its block ends.

    Args:
        url: The URL of the node.
        whole: The right answer to each question.
    """

    def __init__(self, url: str, whole: dict[str, str]) -> None:
        self.seen = Counter[str]()
        """Counts of right answers, wrong answers, and errors in the documented form."""
        self.failures: list[str] = []
        self._url = url
        self._whole = whole
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(_CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        draw = random.Random(number)
        while not self._stop.is_set():
            prompt = draw.choice(list(self._whole))
            try:
                chunks = list(stream(self._url, **question(prompt)))
            except httpx.HTTPStatusError as error:
                self.seen["explicit error"] += 1
                self.failures.append(f"status {error.response.status_code}")
            except httpx.HTTPError as error:
                self.seen["broken off"] += 1
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self._judge(prompt, chunks)

    def _judge(self, prompt: str, chunks: list[dict[str, Any]]) -> None:
        if "error" in chunks[-1]:
            self.seen["explicit error"] += 1
            self.failures.append(str(chunks[-1]["error"]["message"]))
        else:
            is_right = text_of(chunks) == self._whole[prompt]
            self.seen["right" if is_right else "wrong"] += 1


def peers_killed(directory: Path, seconds: float = 120.0) -> list[Row]:
    """Kill one of four peers at random every five seconds, under load through a fifth node."""
    draw = random.Random(int(seconds))
    with _cluster(directory) as (front, peers):
        everybody = {agent.node_id for agent in (front, *peers)}
        whole = {
            prompt: text_of(list(stream(peers[0].url, **question(prompt))))
            for prompt in (f"Once upon a time there was a cat {n}" for n in range(_QUESTIONS))
        }
        with Callers(front.url, whole) as callers:
            kills = 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                draw.choice(peers).kill_node()
                kills += 1
                time.sleep(_KILL_SECONDS)
        wait_for(lambda: all(peer.serves() for peer in peers), _START_SECONDS)
        served_at = time.monotonic()
        wait_for(lambda: agree([front, *peers], everybody), 30)
        converged = time.monotonic() - served_at
        asked = callers.seen.total()
        in_all = wait_for(lambda: counted(front, asked), 30)
        lost = [value(scrape(a.metrics_url), "telemetry_events_lost") for a in (front, *peers)]
        resumed = sum(
            value(scrape(a.metrics_url), "inference_resumed_total", reason="peer_lost") or 0
            for a in peers
        )
    return [
        Row(
            f"{kills} peers killed: only documented errors, no wrong text",
            f"{asked} answers, {dict(callers.seen)}, {resumed:.0f} continued elsewhere; "
            + "; ".join(sorted(set(callers.failures)))[:200],
            callers.seen["broken off"] == callers.seen["wrong"] == 0 < callers.seen["right"],
        ),
        Row("each request is counted once", f"{in_all:.0f} of {asked}", in_all == asked),
        Row("no event is lost on the way to an exporter", f"{lost}", not any(lost)),
        Row(
            f"all agree within {CONVERGED_SECONDS:g} s of the last one's return",
            f"{converged:.2f} s",
            converged <= CONVERGED_SECONDS,
        ),
    ]


@contextlib.contextmanager
def _cluster(directory: Path) -> Iterator[tuple[Agent, list[Agent]]]:
    """Run one node without the model and four with it, all loaded and known to each other."""
    agents: list[Agent] = []
    try:
        seed = ""
        for number in range(1 + _PEERS):
            model = "story" if number else "other"
            agents.append(Agent(directory, f"n{number}", model, seed))
            seed = seed or f"127.0.0.1:{agents[0].mesh}"
        wait_for(lambda: all(agent.serves() for agent in agents), _START_SECONDS)
        wait_for(lambda: agree(agents, {agent.node_id for agent in agents}), 30)
        yield agents[0], agents[1:]
    finally:
        for agent in agents:
            agent.process.send(signal.SIGTERM)
        for agent in agents:
            agent.process.process.wait(60)


def question(prompt: str) -> dict[str, Any]:
    """Return the body of one request."""
    return {"model": "story", "prompt": prompt, "max_tokens": _ANSWER_TOKENS, "temperature": 0}


def agree(agents: list[Agent], everybody: set[str]) -> bool:
    """Whether each agent holds all others alive, and nobody else."""
    return all(agent.alive() == everybody - {agent.node_id} for agent in agents)


def counted(front: Agent, asked: int) -> float | None:
    """Return the counts of the node, once they cover all requests."""
    samples = scrape(front.metrics_url)
    counted = value(samples, "http_requests_total", route="/v1/completions") or 0
    return counted if counted >= asked else None
