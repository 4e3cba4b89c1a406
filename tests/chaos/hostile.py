"""A hostile hour: attacks on everything that a node accepts, all at once, for a given time.

Three nodes serve streams meanwhile. No process may end unless it was killed here. Every request
must end in a way that its client understands, and be counted. Memory must not grow.
"""

import contextlib
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import httpx
import psutil
import pynng

from tests.chaos.clusters import Agent, Callers, agree, counted, question
from tests.chaos.rows import Row
from tests.processes import scrape, stream, text_of, value, wait_for

_NODES: Final = 3
_QUESTIONS: Final = 4
_START_SECONDS: Final = 120.0
_GROWTH_BYTES: Final = 192 * 2**20
"""Allowed growth of a process: caches, and buffers of attacks that are still open, but not one more
for each attack."""
_FLOOD: Final = 200
_HELD: Final = 40
_HARMLESS: Final = (signal.SIGCONT, signal.SIGWINCH, signal.SIGURG, signal.SIGCHLD, signal.SIGPIPE)
_FREEZE_SECONDS: Final = 1.5
_ENDED: Final = re.compile(r"the (node|exporter) ended \((.*?)\)")
_ENGINE_ENDED: Final = re.compile(
    r"engine child \d+ (was killed by signal \d+|ended with status \d+)"
)


class Attack:
    """Repeats one kind of attack in a thread until its block ends.

    Args:
        name: The name in the report.
        pause_seconds: The pause after each attack.
        strike: Attacks once. Network errors are expected and are not failures.
    """

    def __init__(self, name: str, pause_seconds: float, strike: Callable[[], None]) -> None:
        self.name = name
        self.strikes = 0
        self.error = ""
        self._pause_seconds = pause_seconds
        self._strike = strike
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_seconds):
            try:
                with contextlib.suppress(
                    OSError, httpx.HTTPError, psutil.Error, pynng.NNGException
                ):
                    self._strike()
                self.strikes += 1
            except Exception as error:  # noqa: BLE001 - a broken attack proves nothing: reported
                self.error = f"{self.name}: {type(error).__name__}: {error}"
                return


class Signals:
    """Sends random signals to random processes, and counts those that kill.

    The node of the front is never killed, because its unreported counts would be lost. All its
    other processes may be.
    """

    def __init__(self, draw: random.Random, agents: list[Agent]) -> None:
        self.kills = Counter[str]()
        self._draw = draw
        self._agents = agents

    def strike(self) -> None:
        """Signal one process."""
        agent = self._draw.choice(self._agents)
        part, process = self._draw.choice(sorted(agent.processes().items()))
        if self._draw.random() < 0.5:
            process.send_signal(self._draw.choice(_HARMLESS))
        elif self._draw.random() < 0.4:
            process.suspend()
            time.sleep(self._draw.random() * _FREEZE_SECONDS)
            process.resume()
        elif part != "agent" and (part != "node" or agent is not self._agents[0]):
            process.kill()
            self.kills[part] += 1


class Files:
    """Creates odd entries in a models directory, and removes them again."""

    def __init__(self, draw: random.Random, directory: Path) -> None:
        self._draw = draw
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def strike(self) -> None:
        """Create or remove one entry."""
        entries = list(self._directory.iterdir())
        if len(entries) > _HELD:
            with contextlib.suppress(OSError):
                self._draw.choice(entries).unlink()
            return
        stem = self._directory / self._draw.randbytes(6).hex()
        self._draw.choice((_tiny, _undecodable, _fifo, _loop, _dangling, _folder, _long))(stem)


def _tiny(stem: Path) -> None:
    counts = struct.pack("<QQ", 2**60, 2**60)
    stem.with_suffix(".gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + counts)


def _undecodable(stem: Path) -> None:
    name = os.fsdecode(os.fsencode(stem.name) + b"\xff\xfe\x80.gguf")
    stem.with_name(name).write_bytes(b"GGUF")


def _fifo(stem: Path) -> None:
    os.mkfifo(stem.with_suffix(".gguf"))


def _loop(stem: Path) -> None:
    link = stem.with_suffix(".gguf")
    link.symlink_to(link)


def _dangling(stem: Path) -> None:
    stem.with_suffix(".GGUF").symlink_to("/nowhere/at/all.gguf")


def _folder(stem: Path) -> None:
    stem.with_suffix(".gguf").mkdir()


def _long(stem: Path) -> None:
    stem.with_name("x" * 240 + ".gguf").touch()


class Sockets:
    """Clients with every kind of bad behaviour, and strangers to the mesh."""

    def __init__(self, draw: random.Random, agents: list[Agent]) -> None:
        self._draw = draw
        self._agents = agents
        self._held: list[socket.socket] = []

    def flood(self) -> None:
        """Open many silent connections to any port."""
        port = self._port()
        with contextlib.ExitStack() as opened:
            for _ in range(_FLOOD):
                opened.enter_context(socket.create_connection(("127.0.0.1", port), 1))
            time.sleep(1)

    def half_open(self) -> None:
        """Send the beginning of a request and keep the connection."""
        beginning = self._draw.choice(
            (
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._draw.randbytes(64),
                b"\x16\x03\x01\x02\x00\x01" + self._draw.randbytes(90),
                b"GET /metrics HTTP/1.1\r\nHost: x\r\n",
                b"\x00SP\x00\x00\x62\x00\x00" + self._draw.randbytes(200),
                self._draw.randbytes(300),
            )
        )
        held = socket.create_connection(("127.0.0.1", self._port()), 1)
        self._held.append(held)
        if len(self._held) > _HELD:
            self._held.pop(0).close()
        held.sendall(beginning)

    def slow(self) -> None:
        """Request a stream, read a few bytes of it and leave."""
        url = self._draw.choice(self._agents).url
        asked = question("A slow reader once") | {"stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=5) as response:
            next(response.iter_raw(64), b"")

    def odd_model(self) -> None:
        """Request one of a node's models, most of which cannot be loaded."""
        url = self._draw.choice(self._agents).url
        listed = httpx.get(f"{url}/v1/models", timeout=5).json()["data"]
        asked = {"model": self._draw.choice(listed)["id"], "prompt": "x", "max_tokens": 1}
        httpx.post(f"{url}/v1/completions", json=asked, timeout=5)

    def wrong_peer(self) -> None:
        """Survey a mesh as a stranger, with a nonsensical message."""
        port = self._draw.choice(self._agents).mesh
        with pynng.Surveyor0(survey_time=200) as surveyor:
            surveyor.dial(f"tcp://127.0.0.1:{port}", block=True)
            surveyor.send(self._draw.randbytes(self._draw.randrange(1, 4000)))
            surveyor.recv()

    def close(self) -> None:
        """Close the held connections."""
        for held in self._held:
            held.close()

    def _port(self) -> int:
        agent = self._draw.choice(self._agents)
        return self._draw.choice((agent.api, agent.metrics, agent.mesh))


def hostile_hour(directory: Path, seconds: float = 3600.0) -> list[Row]:
    """Attack three serving nodes in every way at once."""
    draw = random.Random(int(seconds))
    models = directory / "models"
    files = Files(draw, models)
    for _ in range(_HELD):
        files.strike()
    with _agents(directory, models) as agents:
        before = _memory(agents)
        whole = {
            prompt: text_of(list(stream(agents[1].url, **question(prompt))))
            for prompt in (f"Once upon a time there was a dog {n}" for n in range(_QUESTIONS))
        }
        signals, sockets = Signals(draw, agents), Sockets(draw, agents)
        attacks = [
            Attack("signals", 1.0, signals.strike),
            Attack("files", 0.2, files.strike),
            Attack("floods", 5.0, sockets.flood),
            Attack("half-open clients", 0.1, sockets.half_open),
            Attack("slow readers", 0.5, sockets.slow),
            Attack("odd models", 1.0, sockets.odd_model),
            Attack("wrong peers", 0.5, sockets.wrong_peer),
        ]
        with contextlib.ExitStack() as stack:
            callers = stack.enter_context(Callers(agents[0].url, whole))
            for attack in attacks:
                stack.enter_context(attack)
            time.sleep(seconds)
        sockets.close()
        everybody = {agent.node_id for agent in agents}
        wait_for(lambda: all(agent.serves() for agent in agents), _START_SECONDS)
        wait_for(lambda: agree(agents, everybody), _START_SECONDS)
        return [
            *_ends_rows(agents, signals.kills),
            *_request_rows(agents, callers),
            _memory_row(before, _memory(agents)),
            Row(
                "every attack was made",
                ", ".join(f"{a.name} {a.strikes}" for a in attacks)
                + "".join(f"; {a.error}" for a in attacks if a.error),
                all(a.strikes and not a.error for a in attacks),
            ),
        ]


@contextlib.contextmanager
def _agents(directory: Path, models: Path) -> Iterator[list[Agent]]:
    agents: list[Agent] = []
    try:
        for number in range(_NODES):
            seed = f"127.0.0.1:{agents[0].mesh}" if agents else ""
            flags = {"models-dir": models, "drain-seconds": 2}
            agents.append(Agent(directory, f"n{number}", "story", seed, flags))
        wait_for(lambda: all(agent.serves() for agent in agents), _START_SECONDS)
        wait_for(lambda: agree(agents, {agent.node_id for agent in agents}), _START_SECONDS)
        yield agents
    finally:
        for agent in agents:
            agent.process.send(signal.SIGTERM)
        for agent in agents:
            agent.process.process.wait(60)


def _ends_rows(agents: list[Agent], kills: Counter[str]) -> list[Row]:
    """Compare the ends in the logs with the kills."""
    logs = [agent.process.log.read_text(errors="replace") for agent in agents]
    ends = Counter(found for log in logs for found in _ENDED.findall(log))
    engines = Counter(found for log in logs for found in _ENGINE_ENDED.findall(log))
    unexpected = {end: n for end, n in ends.items() if end[1] != "killed by signal 9"}
    unexpected_engines = {end: n for end, n in engines.items() if not end.endswith("signal 9")}
    by_part = Counter({part: n for (part, how), n in ends.items() if "signal 9" in how})
    return [
        Row(
            "only killed processes end",
            f"killed {dict(kills)}; ended by it {dict(by_part)}, engines {engines.total()}; "
            f"else {unexpected or unexpected_engines or 'none'}",
            not unexpected
            and not unexpected_engines
            and all(by_part[part] <= kills[part] for part in ("node", "exporter"))
            and all(agent.process.is_running for agent in agents),
        ),
        Row(
            "no traceback in any log",
            f"{sum(log.count('Traceback') for log in logs)}",
            not any("Traceback" in log for log in logs),
        ),
    ]


def _request_rows(agents: list[Agent], callers: Callers) -> list[Row]:
    asked = callers.seen.total()
    wait_for(lambda: all(map(_answers, agents)), 60)
    told = wait_for(lambda: counted(agents[0], asked), 60)
    lost = [value(scrape(agent.metrics_url), "telemetry_events_lost") for agent in agents]
    return [
        Row(
            "no wrong text, no silent cut",
            f"{dict(callers.seen)}; " + "; ".join(sorted(set(callers.failures)))[:200],
            callers.seen["wrong"] == callers.seen["broken off"] == 0 < callers.seen["right"],
        ),
        Row("every request is counted", f"{told:.0f}, at least {asked}", told >= asked),
        Row("nothing is lost on the way to an exporter", f"{lost}", not any(lost)),
    ]


def _answers(agent: Agent) -> bool:
    """Return whether the exporter is there; it may have been killed a moment ago."""
    try:
        return bool(scrape(agent.metrics_url))
    except httpx.TransportError:
        return False


def _memory(agents: list[Agent]) -> dict[str, int]:
    """Return the resident bytes of the agents' processes: the largest of each role."""
    largest: dict[str, int] = {}
    for agent in agents:
        for part, process in agent.processes().items():
            with contextlib.suppress(psutil.NoSuchProcess):  # a header's reader lives briefly
                largest[part] = max(largest.get(part, 0), process.memory_info().rss)
    return largest


def _memory_row(before: dict[str, int], after: dict[str, int]) -> Row:
    grown = {part: after[part] - before.get(part, 0) for part in after}
    return Row(
        f"no process grows by more than {_GROWTH_BYTES // 2**20} MiB",
        ", ".join(f"{part} {growth / 2**20:+.0f} MiB" for part, growth in sorted(grown.items())),
        all(growth <= _GROWTH_BYTES for growth in grown.values()),
    )
