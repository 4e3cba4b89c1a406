"""One process that the agent keeps alive."""

import itertools
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

import trio

from node.agent.notifications import open_notifications
from shared.runtime.processes import open_process
from shared.runtime.silence import sleep_awake, wait_silence
from shared.settings.declaration import ENVIRONMENT_PREFIX
from shared.watchdog import PROCESS_VARIABLE, SECONDS_VARIABLE

_BACKOFF_SECONDS: Final = (0.5, 30.0)
_STEADY_SECONDS: Final = 60.0
"""A process that ran this long did not end in a crash loop."""
SILENCE_SECONDS: Final = 30.0
"""A process whose event loop sends nothing for this long is hanging."""
_USAGE: Final = (1, 2)
"""Exit codes of a process that cannot run with its settings."""
_NOT_STARTED: Final = 127
_MESSAGE_BYTES: Final = 4096

_log = logging.getLogger(__name__)


class CannotStartError(Exception):
    """The process refused its first start and has reported why; carries its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Service:
    """A process with its restarts.

    The process reports that it is ready like a systemd service: it sends a datagram with `READY=1`
    and, as `X_URL=`, its address to the socket named in `NOTIFY_SOCKET` (sd_notify(3)). It also
    reports there that it is alive. If it stops doing so, it is killed (sd_watchdog_enabled(3)).

    Args:
        name: Its name in the log.
        command: Its command line.
        stop_seconds: How long it may take to end after SIGTERM.
        silence_seconds: How long it may be silent after its first notification, in the agent's own
            running time.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        stop_seconds: float,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.name: Final = name
        self._command = command
        self._stop_seconds = stop_seconds
        self._silence_seconds = silence_seconds
        self._process: trio.Process | None = None
        self._words = 0
        """How many notifications this process has sent."""

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the process alive; started with its URL once it is ready. Runs until cancelled.

        When cancelled, it stops the process with SIGTERM and waits for its end.

        Raises:
            CannotStartError: The process refused its first start.
        """
        ready = False

        def started(url: str) -> None:
            nonlocal ready
            if not ready:
                ready = True
                task_status.started(url)

        backoff = _BACKOFF_SECONDS[0]
        while True:
            born = trio.current_time()
            try:
                code = await self._live(started)
            except OSError as error:  # no process or memory available now
                _log.error("cannot start the %s: %s", self.name, error)
                code = _NOT_STARTED
            if not ready and code in _USAGE:
                raise CannotStartError(code)
            if trio.current_time() - born > _STEADY_SECONDS:
                backoff = _BACKOFF_SECONDS[0]
            _log.warning("the %s ended (%s): restarting it in %s s", self.name, _how(code), backoff)
            await trio.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF_SECONDS[1])

    def hurry(self) -> None:
        """Send SIGTERM again, which makes an ending process drop what it waits for."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def _live(self, started: Callable[[str], None]) -> int:
        """Run the process once and return its exit code."""
        # A new socket per run: an earlier process's last messages must not count for this one.
        with open_notifications() as notifications:
            environment = _environment() | {
                "NOTIFY_SOCKET": str(notifications.path),
                SECONDS_VARIABLE: str(int(self._silence_seconds * 1e6)),
                PROCESS_VARIABLE: "",  # not the process that systemd may have named to the agent
            }
            async with open_process(
                self._command, stdin=subprocess.DEVNULL, environment=environment
            ) as process:
                return await self._attend(process, notifications.receiver, started)

    async def _attend(
        self,
        process: trio.Process,
        receiver: trio.socket.SocketType,
        started: Callable[[str], None],
    ) -> int:
        """Wait for the end of the process. If cancelled, stop the process."""
        self._process = process
        _log.info("the %s is process %d", self.name, process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._listen, process, receiver, started, name=f"word of {self.name}"
                )
                code = await process.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            await self._stop(process)

    async def _listen(
        self,
        process: trio.Process,
        receiver: trio.socket.SocketType,
        started: Callable[[str], None],
    ) -> None:
        """Report that it is ready, and kill it when it falls silent. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            for count in itertools.count(1):
                message = (await receiver.recv(_MESSAGE_BYTES)).decode(errors="replace")
                self._words = count
                if count == 1:  # the start may take any time, because models load
                    nursery.start_soon(self._watch, process, name=f"watchdog of {self.name}")
                fields = dict(line.partition("=")[::2] for line in message.splitlines())
                if fields.get("READY") == "1":
                    started(fields.get("X_URL", ""))

    async def _watch(self, process: trio.Process) -> None:
        """Kill the process when it falls silent. Runs until then or until cancelled."""
        await wait_silence(lambda: self._words, self._silence_seconds)
        _log.error(
            "the %s hangs: no sign of life for %s s, killing it", self.name, self._silence_seconds
        )
        process.kill()

    async def _stop(self, process: trio.Process) -> None:
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lose_patience, process, name=f"end of {self.name}")
                await process.wait()
                nursery.cancel_scope.cancel()

    async def _lose_patience(self, process: trio.Process) -> None:
        await sleep_awake(self._stop_seconds)
        _log.error("the %s did not end within %s s: killing it", self.name, self._stop_seconds)
        process.kill()


def _environment() -> dict[str, str]:
    """Return the environment for a process: without the settings, which it gets as flags."""
    return {n: text for n, text in os.environ.items() if not n.startswith(ENVIRONMENT_PREFIX)}


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"status {code}"
