"""A real process that the agent keeps alive."""

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from node.agent.service import Service

SPEAKING = """
import os, time
from shared.runtime.notify import notify
notify("READY=1", "X_URL=http://here")
open(os.environ["STARTS"], "a").write(f"{os.getpid()}\\n")
while True:
    notify("WATCHDOG=1")
    time.sleep(int(os.environ["WATCHDOG_USEC"]) / 2e6)
"""

pytestmark = pytest.mark.slow


@trio_test
async def test_process_that_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that pings is left alone; one that is stopped is killed and restarted."""
    starts = tmp_path / "starts"
    monkeypatch.setenv("STARTS", str(starts))
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))  # as under systemd
    service = Service("thing", [sys.executable, "-c", SPEAKING], 5, silence_seconds=2)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            assert await nursery.start(service.run) == "http://here"
            while not starts.exists() or not starts.read_text():  # noqa: ASYNC110
                await trio.sleep(0.05)
            (first,) = starts.read_text().split()
            await trio.sleep(4)  # twice its timeout
            assert starts.read_text().split() == [first]
            os.kill(int(first), signal.SIGSTOP)
            while len(starts.read_text().split()) < 2:  # noqa: ASYNC110
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert not Path(f"/proc/{first}").exists()
