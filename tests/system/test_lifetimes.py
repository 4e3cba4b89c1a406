"""The agent's processes live and end with it, through kill -9, hang-up and freeze."""

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.agents import COMMAND, agent, flags
from tests.processes import Pair, command_of, free_port, stream, wait_for

GONE_SECONDS = 5.0
"""The promise is 1 s; the machine may be busy."""


def gone(processes: list[psutil.Process]) -> bool:
    """Return whether all of them have ended, reaped or not."""
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end between two looks
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def killed_at_the_end(processes: list[psutil.Process]) -> Iterator[None]:
    """Kill the processes that a failed test leaves."""
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_killed_agent_takes_all_with_it_and_another_starts_at_once(
    tmp_path: Path, slow_model: Path
) -> None:
    """A killed agent takes all its processes with it, and another can start at once."""
    ports = [f"--{name}-port={free_port()}" for name in ("api", "mesh", "metrics")]
    with agent(tmp_path, *ports, f"--model={slow_model}") as first:
        processes = first.descendants()
        with killed_at_the_end(processes):
            answer = stream(first.api, max_tokens=1000)
            next(answer)
            os.kill(
                first.pid_of("exporter"), signal.SIGSTOP
            )  # a stopped process cannot end by itself
            first.process.kill()
            first.process.wait()
            with agent(tmp_path, *ports) as second:
                assert gone(processes)
                assert httpx.get(f"{second.api}/health").status_code == 200
            with pytest.raises(httpx.TransportError):
                list(answer)


def test_killed_node_takes_its_working_engine_with_it(pair: Pair, slow_model: Path) -> None:
    """A computing engine ends with its killed node."""
    with pair.node(f"--model={slow_model}") as node:
        engines = psutil.Process(node.process.pid).children(recursive=True)
        with killed_at_the_end(engines):
            answer = stream(node.url, max_tokens=1000)
            next(answer)
            assert len(engines) == 1
            node.process.kill()
            wait_for(lambda: gone(engines), GONE_SECONDS)
            with pytest.raises(httpx.TransportError):
                list(answer)


def test_hang_up_is_a_clean_stop(tmp_path: Path) -> None:
    """SIGHUP, even twice, drains and ends the agent with code 0 and no process left."""
    with agent(tmp_path) as started:
        processes = started.descendants()
        with killed_at_the_end(processes):
            started.process.send_signal(signal.SIGHUP)
            started.process.send_signal(signal.SIGHUP)
            assert started.process.wait(timeout=30) == 0
            assert gone(processes)
        assert "said goodbye" in started.log.read_text()


@pytest.mark.parametrize("program", [pytest.param("node", marks=pytest.mark.slow), "exporter"])
def test_hang_up_stops_a_process_that_runs_alone(pair: Pair, program: str) -> None:
    """SIGHUP stops a node or an exporter without an agent cleanly, too."""
    with getattr(pair, program)() as running:
        assert running.end(signal.SIGHUP) == 0


@pytest.mark.slow
def test_hang_up_of_a_nohup_agent_is_ignored(tmp_path: Path) -> None:
    """Under nohup the agent ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with agent(tmp_path) as started:
            started.process.send_signal(signal.SIGHUP)
            body = {"prompt": "Once", "max_tokens": 3}
            asked = httpx.post(f"{started.api}/v1/completions", json=body)
            assert asked.status_code == 200
            assert started.process.poll() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("just"), reason="just is not on PATH")
def test_closed_terminal_stops_run_local(tmp_path: Path) -> None:
    """Closing the terminal of `just run-local` is a clean stop, with or without its output."""
    own = [flag for flag in flags(tmp_path) if not flag.startswith("--node-id")]
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        shell = subprocess.Popen(
            ["just", "run-local", *own],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
    processes: list[psutil.Process] = []
    try:
        shown = b""
        while b"curl" not in shown:
            shown += os.read(ours, 4096)
        processes = psutil.Process(shell.pid).children(recursive=True)
        assert len(processes) >= 3
    finally:
        os.close(ours)
        with killed_at_the_end(processes):
            shell.wait(timeout=30)
            wait_for(lambda: gone(processes), 30)
    # A clean stop removes the socket.
    assert (tmp_path / "state").is_dir()
    assert not (tmp_path / "run" / "telemetry.sock").exists()


WATCHER = """
import logging, sys, trio
from node.agent.service import Service

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
THING = '''
import os, socket, time
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
message = b"READY=1"
while True:
    try:
        sender.sendto(message, os.environ["NOTIFY_SOCKET"])
        message = b"WATCHDOG=1"
    except BlockingIOError:
        pass
    time.sleep(0.1)
'''
async def main():
    service = Service("thing", [sys.executable, "-c", THING], 5, silence_seconds=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        print("watched", flush=True)


trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["both", "watcher"])
def test_freeze_kills_nothing_on_thaw(frozen: str) -> None:
    """Processes are not considered hung because the agent, or all of them, were frozen."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER], stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout
        said: list[str] = []
        lines = watcher.stdout
        reader = threading.Thread(target=lambda: said.extend(lines))
        try:
            thing = int(lines.readline().split()[-1])
            assert lines.readline() == "watched\n"
            reader.start()
            stopped = [watcher.pid, thing] if frozen == "both" else [watcher.pid]
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in stopped:
                    os.kill(pid, number)
                # Three times the timeout, and the rest of one after the thaw.
                threading.Event().wait(3)
            assert psutil.Process(thing).is_running()
        finally:
            watcher.kill()
            reader.join()
    assert said == []


def init(directory: Path) -> list[str]:
    """Return the command line of an agent that is process 1 of its own namespace."""
    return [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        *COMMAND,
        *flags(directory),
    ]


def can_unshare() -> bool:
    """Return whether a PID namespace can be created here."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="no namespace of processes can be made here")
def test_agent_as_process_1_takes_dead_orphans_away(tmp_path: Path) -> None:
    """As process 1 of a container the agent reaps orphans, and ends on SIGTERM."""
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            init(tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        ) as outer,
    ):
        try:
            wait_for(lambda: "model demo is ready" in log.read_text(), 60)
            (root,) = psutil.Process(outer.pid).children()
            node = next(p for p in root.children() if "node" in command_of(p))
            (engine,) = node.children()
            # A shell in the container leaves an orphan: its parent ends first.
            node.kill()
            wait_for(lambda: not engine.is_running())
            wait_for(lambda: "the node ended (killed by signal 9)" in log.read_text())
            wait_for(lambda: log.read_text().count("model demo is ready") == 2, 60)
            wait_for(lambda: all(map(_runs, root.children())))
            root.terminate()
            assert outer.wait(timeout=60) == 0
        finally:
            outer.kill()


@pytest.mark.parametrize(
    "unusable",
    [
        "closed",
        pytest.param("full", marks=pytest.mark.slow),
        pytest.param("nobody reads", marks=pytest.mark.slow),
    ],
)
def test_agent_serves_without_usable_streams(tmp_path: Path, unusable: str) -> None:
    """The agent starts, serves and stops with 0 when its standard streams are unusable."""
    port = free_port()
    command = [*COMMAND, *flags(tmp_path), f"--api-port={port}", "--log-level=debug"]
    url = f"http://127.0.0.1:{port}/health"
    with contextlib.ExitStack() as streams:
        if unusable == "closed":
            process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
        elif unusable == "full":
            full = streams.enter_context(Path("/dev/full").open("w"))
            process = subprocess.Popen(command, stdin=full, stdout=full, stderr=full)
        else:
            read_end, write_end = os.pipe()
            streams.callback(os.close, read_end)
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(b"x" * 2**16)  # the pipe is full
                process = subprocess.Popen(command, stdout=pipe, stderr=pipe)
        try:
            wait_for(lambda: process.poll() is not None or _is_well(url), 60)
            assert process.poll() is None
            process.terminate()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def _is_well(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


def can_be_anybody() -> bool:
    """Return whether a user namespace can be created here."""
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "true"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not can_be_anybody(), reason="no namespace of users can be made here")
@pytest.mark.parametrize(
    "home",
    [
        pytest.param(None, marks=pytest.mark.slow),
        "/dev/null",
        pytest.param("/proc", marks=pytest.mark.slow),
    ],
)
def test_agent_serves_any_user_from_anywhere(tmp_path: Path, home: str | None) -> None:
    """The agent works for a user without a name or home, in a deleted directory."""
    port = free_port()
    log, cwd = tmp_path / "log", tmp_path / "cwd"
    cwd.mkdir()
    (cwd / "trio.py").write_text("raise SystemExit('not this one')")
    given = [flag for flag in flags(tmp_path) if not flag.startswith("--state-dir")]
    user = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    program = Path(sys.executable).with_name("agent")
    delete = f'rm "{cwd}"/trio.py && rmdir "{cwd}" && exec "$@"' if home else 'exec "$@"'
    command = ["sh", "-c", delete, "sh", *user, str(program), *given, f"--api-port={port}"]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    if home:
        environment["HOME"] = home
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}/health"
            wait_for(lambda: process.poll() is not None or _is_well(url), 60)
            assert process.poll() is None, log.read_text()
            process.terminate()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()
