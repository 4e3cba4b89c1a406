"""Child processes and their owners, with real processes."""

import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
import trio
from trio.testing import trio_test

from shared.runtime import lifeline
from shared.runtime.processes import PYTHON, open_process
from tests.patience import patient
from tests.processes import wait_for

BUSY = "import re; re.match('(a+)+b', 'a' * 64)"  # never releases the interpreter lock
OWNER = f"""
import subprocess, sys, trio
from shared.runtime.processes import PYTHON, open_process

async def own():
    async with open_process([sys.executable, "-c", {BUSY!r}], stdin=subprocess.DEVNULL) as owned:
        print(owned.pid, flush=True)
        await trio.sleep_forever()

trio.run(own)
"""


def gone(process_id: int) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("state", ["busy", "stopped"])
def test_killed_owner_takes_its_process_with_it(state: str) -> None:
    """A child that computes without a pause, or is stopped, ends with its owner."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        owned = int(owner.stdout.readline())
        try:
            wait_for(lambda: psutil.Process(owned).cmdline()[2:3] == [BUSY])
            if state == "stopped":
                os.kill(owned, signal.SIGSTOP)
            assert not gone(owned)
            owner.kill()
            wait_for(lambda: gone(owned), seconds=5)
        finally:
            owner.kill()
            if not gone(owned):
                os.kill(owned, signal.SIGKILL)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open more files than select(2) can handle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_process_whose_owner_is_gone_already_does_not_start() -> None:
    """A program does not start if its owner is already gone, even with a descriptor above 1024."""
    low, write_end = os.pipe()
    read_end = fcntl.fcntl(low, fcntl.F_DUPFD, 1100)
    os.close(low)
    os.close(write_end)
    program = [sys.executable, "-c", "print('started')"]
    command = [sys.executable, "-I", "-S", lifeline.__file__, str(read_end), *program]
    done = subprocess.run(command, pass_fds=(read_end,), capture_output=True, check=False)
    os.close(read_end)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


@pytest.mark.slow
@trio_test
async def test_process_outlives_the_threads_that_start_processes() -> None:
    """A child belongs to the process that started it, not to the thread."""
    with trio.fail_after(60):
        command = [sys.executable, "-c", "import time; time.sleep(1000)"]
        async with open_process(command, stdin=subprocess.DEVNULL) as process:
            assert _threads_of_trio()
            while _threads_of_trio():  # noqa: ASYNC110
                await trio.sleep(0.2)
            assert process.poll() is None
        assert process.returncode == -signal.SIGKILL


def _threads_of_trio() -> bool:
    return any(thread.name.startswith("Trio thread") for thread in threading.enumerate())


@trio_test
async def test_missing_program_is_named() -> None:
    """A program that cannot be run is named in one line."""
    async with open_process(
        ["/no/such/program"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        async with process.stderr:
            said = b"".join([part async for part in process.stderr])
        assert await process.wait() == 1
    assert said == b"/no/such/program cannot be run: No such file or directory\n"


@trio_test
async def test_exit_code_of_the_program_is_the_process() -> None:
    """There is no intermediate process between a child and its owner."""
    command = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid()); exit(7)"]
    async with open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        async with process.stdout:
            said = b"".join([part async for part in process.stdout])
        assert await process.wait() == 7
    assert said == b"True\n"


@trio_test
async def test_signal_that_python_ignores_ends_no_child_at_its_start() -> None:
    """From the first instruction on: before the interpreter is set up, and after."""
    command = [*PYTHON, "-c", "print('ready')"]
    with trio.fail_after(patient(30)):
        async with open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            while process.poll() is None:
                process.send_signal(signal.SIGPIPE)
                await trio.lowlevel.checkpoint()
            assert process.returncode == 0
            assert process.stdout
            assert await process.stdout.receive_some() == b"ready\n"


@trio_test
async def test_program_in_another_language_gets_the_default_signals() -> None:
    """A command of a pipeline ends when its reader is gone, as its authors expect."""
    command = [shutil.which("cat") or "/bin/cat", "/proc/self/status"]
    async with open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        status = b"".join([piece async for piece in process.stdout]).decode()
    ignored = int(re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    assert not ignored & 1 << signal.SIGPIPE - 1
