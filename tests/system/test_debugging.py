"""`tail`, `replay` and `check` against real processes, and the examples of docs/debugging.md."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from exporter.journal.changes import BATCH, pack_change
from exporter.journal.records import pack_log_header, pack_record
from shared.events.node import NodeState, NodeStateChanged
from shared.events.requests import TokensGenerated
from tests.batches import Emitter
from tests.builders import every_event, pack_batch
from tests.processes import PREFIX, Pair, Running, scrape, value, wait_for

REPOSITORY = Path(__file__).parents[2]
_TOO_MANY = 1000
"""Batches of 10 kB: more than the queues of both sides and of the kernel hold."""
EXPORTER = [sys.executable, "-m", "exporter"]
_TIMES = re.compile(
    r"^distributed_llm_(exporter_(scrape|last_event|event_lag|journal|state_disk|rejected_batches)"
    r"|health_check|exporter_series|exporter_build)|_request_duration_seconds_sum|# .*",
)
"""Metrics that do not come from the journal: when it was read, how long that took, and how often a
node's second run came before the connection of its first was gone."""


def run(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*EXPORTER, *arguments], capture_output=True, text=True, timeout=60, check=check
    )


@contextlib.contextmanager
def tailing(
    pair: Pair, *flags: str, stdout: IO[str] | int = subprocess.PIPE
) -> Iterator["subprocess.Popen[str]"]:
    """Run `tail`; entered when it is attached."""
    process = subprocess.Popen(
        [*EXPORTER, "tail", pair.flags[0], *flags],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            assert "attached" in process.stderr.readline()
            yield process
        finally:
            process.kill()


def record(pair: Pair) -> Path:
    """Let an exporter count two runs of one node and one of another, and return its state."""
    with pair.exporter() as exporter:
        first, other = Emitter(pair.directory), Emitter(pair.directory, "node2")
        first.send(*every_event()[:-1])
        other.send(*every_event("other")[:-1])
        first.close()  # killed
        second = Emitter(pair.directory, session="s2")
        second.send(NodeStateChanged("online"), TokensGenerated("m", 5))
        second.send(goodbye=True)
        other.send(goodbye=True)
        assert value(scrape(exporter.url), "inference_tokens_generated_total") == 7
    recording = pair.directory / "recording"
    shutil.copytree(pair.directory / "state", recording)
    return recording


def lasting(exporter: Running) -> list[str]:
    """Return the lines of an exposition that depend on the journal only, without times."""
    lines = httpx.get(f"{exporter.url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith(PREFIX) and not _TIMES.search(line)]


def test_tail_shows_events_as_they_arrive(pair: Pair) -> None:
    """Each event is one line as soon as it is counted, and readers do not affect the counts."""
    with pair.exporter() as exporter:
        node = Emitter(pair.directory)
        with tailing(pair) as tail:
            assert tail.stdout is not None
            for count in (1, 2, 3):
                node.send(TokensGenerated("a model", count))
                line = tail.stdout.readline()
                assert line.endswith(
                    f' node1 {count} TokensGenerated model_id="a model" count={count} drawn_at=\n'
                )
            tail.send_signal(signal.SIGINT)
            assert tail.wait(timeout=20) == 0
        node.send(TokensGenerated("a model", 4))
        assert value(scrape(exporter.url), "inference_tokens_generated_total") == 10
        assert value(scrape(exporter.url), "telemetry_events_lost") == 0
        node.close()


@pytest.mark.slow
def test_tail_of_a_real_node_filters(pair: Pair) -> None:
    """`--nodes`, `--events`, `--json` and `--count` select, format and limit the events."""
    with pair.exporter(), pair.node() as node:
        # Only completions end with these: the exporter's own health checks end in HttpFinished.
        ends = "--events=InferenceFinished,InferenceResumed"
        chosen = ("--json", ends, "--nodes=node1", "--count=2")
        with tailing(pair, *chosen) as tail, tailing(pair, "--nodes=other") as other:
            body = {"prompt": "Once upon a time", "max_tokens": 4}
            for _ in range(2):
                httpx.post(f"{node.url}/v1/completions", json=body, timeout=60).raise_for_status()
            written, _ = tail.communicate(timeout=30)
            assert tail.returncode == 0
            shown = [json.loads(line) for line in written.splitlines()]
            told = [(one["event"], one["node_id"], one["fields"]["status"]) for one in shown]
            assert told == [("InferenceFinished", "node1", "ok")] * 2
            other.terminate()
            assert other.communicate(timeout=20)[0] == ""


def test_slow_tail_says_what_it_missed_and_holds_nobody_up(pair: Pair) -> None:
    """A stopped reader loses batches and reports how many; nothing else is affected."""
    output = pair.directory / "output"
    with pair.exporter() as exporter:
        node = Emitter(pair.directory)
        flags = ("--json", "--events=NodeStateChanged")
        with output.open("w") as file, tailing(pair, *flags, stdout=file) as tail:

            def is_shown(state: NodeState) -> bool:
                node.send(NodeStateChanged(state))
                return f'"{state}"' in output.read_text()

            wait_for(lambda: is_shown("online"))  # a reader counts losses from its first batch on
            tail.send_signal(signal.SIGSTOP)
            for _ in range(_TOO_MANY):
                node.send(*[TokensGenerated("m" * 100, 1)] * 100)
            tail.send_signal(signal.SIGCONT)
            wait_for(lambda: is_shown("busy"))
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        lost = sum(line.get("lost_batches", 0) for line in lines)
        assert 0 < lost < _TOO_MANY
        counted = value(scrape(exporter.url), "inference_tokens_generated_total")
        assert counted == _TOO_MANY * 100
        node.close()


def test_tail_without_an_exporter_is_one_line(pair: Pair) -> None:
    """A missing exporter and an unknown event are each one line with the right exit code."""
    (pair.directory / "run").mkdir()
    told = run("tail", pair.flags[0], check=False)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert "start one" in told.stderr
    told = run("tail", "--events=Nonsense", check=False)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)


def test_removed_socket_of_tail_is_made_anew(pair: Pair) -> None:
    """A removed socket is recreated, for attached readers and new ones."""
    path = pair.directory / "run" / "tail.sock"
    with pair.exporter():
        node = Emitter(pair.directory)

        def is_shown(output: Path) -> bool:
            node.send(TokensGenerated("m", 1))
            return "TokensGenerated" in output.read_text()

        before, after = pair.directory / "before", pair.directory / "after"
        with before.open("w") as file, tailing(pair, stdout=file):
            path.unlink()
            wait_for(path.is_socket)
            assert path.stat().st_mode & 0o777 == 0o600
            with after.open("w") as other, tailing(pair, stdout=other):
                wait_for(lambda: is_shown(after))
            wait_for(lambda: is_shown(before))
        node.close()


@pytest.mark.slow
def test_replaying_twice_gives_the_same(pair: Pair) -> None:
    """A journal gives the same exposition, byte for byte, whenever and wherever it is replayed."""
    recording = record(pair)
    first, second = (run("replay", "--print", str(recording)).stdout for _ in range(2))
    assert first == second
    assert 'inference_tokens_generated_total{model_id="m",node_id="node1"} 6.0' in first
    shown = []
    for name in ("one", "two"):
        empty = Pair(pair.directory / name)
        with empty.exporter() as exporter:
            told = run("replay", "--speed=0", empty.flags[0], str(recording))
            assert "of 2 nodes" in told.stderr
            shown.append(lasting(exporter))
    assert shown[0] == shown[1]
    # What that exporter concluded by itself is in no batch; all that the nodes sent is there.
    printed = {line for line in first.splitlines() if not _TIMES.search(line)}
    said = {line for line in shown[0] if "inference_" in line or "model_" in line}
    assert len(said) > 100
    assert said <= printed


def test_replay_keeps_to_its_speed(pair: Pair) -> None:
    """With `--speed` the recorded pauses between batches are divided by it."""
    log = pair.directory / "journal-1.log"
    batches = [pack_batch(TokensGenerated("m", 1), first=first) for first in (1, 2)]
    changes = [pack_change(BATCH, 1e9 + 3 * at, batch) for at, batch in enumerate(batches)]
    log.write_bytes(pack_log_header() + b"".join(map(pack_record, changes)))
    with pair.exporter():
        told = run("replay", "--speed=6", pair.flags[0], str(log))
    (seconds,) = re.findall(r"2 batches with 2 events of 1 nodes in ([\d.]+) s", told.stderr)
    assert 0.5 <= float(seconds) < 3.0


@pytest.mark.slow
def test_replay_beside_a_live_node_of_that_name_is_refused(pair: Pair) -> None:
    """A replay under the name of a live node is refused."""
    recording = record(pair)
    empty = Pair(pair.directory / "empty")
    with empty.exporter() as exporter:
        node = Emitter(empty.directory, session="live")
        node.send(TokensGenerated("m", 1))
        flags = ("--speed=0", empty.flags[0], str(recording))
        with subprocess.Popen(
            [*EXPORTER, "replay", *flags], stderr=subprocess.PIPE, text=True
        ) as replay:
            while replay.poll() is None:
                node.send()  # a heartbeat
            assert replay.stderr is not None
            told = replay.stderr.read()
        assert (replay.returncode, told.count("\n")) == (1, 1)
        assert "node1 is live there" in told
        assert value(scrape(exporter.url), "inference_tokens_generated_total", node_id="node1") == 1
        node.close()


@pytest.mark.slow
def test_check_changes_nothing_and_tells_all(pair: Pair) -> None:
    """Each state (missing, sound, in use, damaged) is one line with its code; nothing changes."""
    told = run("check", *pair.flags)
    assert "is missing and would be made" in told.stdout
    assert not (pair.directory / "state").exists()
    recording = record(pair)
    with pair.exporter():
        told = run("check", *pair.flags)
        assert told.stdout.count(", in use by process ") == 2
    (log,) = recording.glob("journal-*.log")
    sound = log.read_bytes()
    told = run("check", pair.flags[0], f"--state-dir={recording}")
    assert re.search(
        rf"^ok     {log.name}: \d+ records with \d+ events$", told.stdout, re.MULTILINE
    )
    damaged = sound[:-1] + bytes([sound[-1] ^ 1])
    log.write_bytes(damaged)
    told = run("check", pair.flags[0], f"--state-dir={recording}", check=False)
    assert told.returncode == 1
    assert re.search(rf"(?m)^failed {log.name}: damaged from byte \d+", told.stdout)
    assert log.read_bytes() == damaged
    log.write_bytes(sound + pack_record(b"\x01"))
    told = run("check", pair.flags[0], f"--state-dir={recording}", check=False)
    assert re.search(rf"(?m)^failed {log.name}: the record at byte \d+ crashes", told.stdout)
    told = run("replay", "--print", str(recording), check=False)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert run("check", "--metrics-port=x", check=False).returncode == 2


def test_check_looks_at_the_tokens(pair: Pair) -> None:
    """`check` finds a token file that would refuse a start, and shows no token."""
    file = pair.directory / "tokens"
    for content, code, said in (
        (None, 1, "cannot be read: No such file"),
        (b"# none yet\n", 1, "it contains no key"),
        (b"\xff\n", 1, "it is not UTF-8"),
        (b"# of Prometheus\nsecret-one\nsecret-two\n", 0, "holds 2 tokens"),
    ):
        if content is not None:
            file.write_bytes(content)
        told = run("check", *pair.flags, f"--metrics-token-file={file}", check=False)
        assert (told.returncode, told.stderr) == (code, "")
        (line,) = [one for one in told.stdout.splitlines() if " metrics-token-file: " in one]
        assert said in line
        assert "secret" not in told.stdout


def test_help_of_a_subcommand_shows_what_it_uses(pair: Pair) -> None:
    """`--help` omits settings without effect, but they are accepted."""
    shown = {name: run(name, "--help").stdout for name in ("tail", "replay", "check")}
    assert all("--runtime-dir" in text for text in shown.values())
    assert "--series-budget" in shown["replay"]
    assert not any("  --node-id " in text for text in shown.values())
    for flag in ("--host", "--state-dir", "--log-level"):
        assert f"  {flag} " not in shown["tail"] + shown["replay"]
        assert f"  {flag} " in shown["check"]
    told = run("tail", "--node-id=node1", "--state-dir=x", *pair.flags, check=False)
    assert "no exporter listens" in told.stderr


@pytest.mark.slow
def test_examples_of_the_page_work(pair: Pair, tmp_path: Path) -> None:
    """Each command of docs/debugging.md does what the page says."""
    page = (REPOSITORY / "docs/debugging.md").read_text()
    examples = re.findall(r"(?ms)^```sh\n(.*?)^```", page)
    assert len(examples) == 5
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DISTRIBUTED_LLM_RUNTIME_DIR": str(pair.directory / "run"),
        "DISTRIBUTED_LLM_STATE_DIR": str(pair.directory / "state"),
    }
    with pair.exporter(), pair.node():
        for example in examples:
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", example],
                cwd=tmp_path,
                env=environment,
                timeout=60,
                check=True,
            )
    assert 'telemetry_events_lost{node_id="node1"} 0.0' in (tmp_path / "exposition.txt").read_text()
