"""One process that the agent keeps alive."""

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from shared.settings.declaration import ENVIRONMENT_PREFIX
from shared.watchdog import PROCESS_VARIABLE, SECONDS_VARIABLE

_BACKOFF_SECONDS: Final = (0.5, 30.0)
_STEADY_SECONDS: Final = 60.0
"""A process that lived this long was no part of a crash loop."""
SILENCE_SECONDS: Final = 30.0
"""A process whose event loop says nothing for so long hangs."""
_USAGE: Final = (1, 2)
"""Exit codes by which a process says that it cannot run with what it was given."""
_NOT_STARTED: Final = 127
_MESSAGE_BYTES: Final = 4096

_log = logging.getLogger(__name__)


class CannotStartError(Exception):
    """The process refused its first start and has said why; carries its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Service:
    """A process with its restarts.

    It says that it is ready as systemd's services do: a datagram with `READY=1` and, as
    `X_URL=`, where it listens, to the socket named in `NOTIFY_SOCKET` (sd_notify(3)). There it also
    says that it is alive, and is killed when it no longer does (sd_watchdog_enabled(3)).

    Args:
        name: What it is called in the log.
        command: Its command line.
        directory: Where the notification socket may be made.
        stop_seconds: How long it gets to end after SIGTERM.
        silence_seconds: How long it may say nothing after its first word.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        stop_seconds: float,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.name: Final = name
        self._command = command
        self._notify_path = directory / f"{name}.sock"
        self._stop_seconds = stop_seconds
        self._silence_seconds = silence_seconds
        self._process: trio.Process | None = None

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the process alive; started with its URL when it is ready. Runs until cancelled.

        When cancelled it stops the process with SIGTERM and waits for its end.

        Raises:
            CannotStartError: The process refused its first start.
        """
        with _notifications(self._notify_path) as receiver:
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
                    code = await self._live(receiver, started)
                except OSError as error:  # no process or memory to be had now
                    _log.error("the %s cannot be started: %s", self.name, error)
                    code = _NOT_STARTED
                if not ready and code in _USAGE:
                    raise CannotStartError(code)
                if trio.current_time() - born > _STEADY_SECONDS:
                    backoff = _BACKOFF_SECONDS[0]
                _log.warning("the %s ended (%s): again in %s s", self.name, _how(code), backoff)
                await trio.sleep(backoff)
                backoff = min(2 * backoff, _BACKOFF_SECONDS[1])

    def hurry(self) -> None:
        """Send SIGTERM once more to a process that is ending: it need not be polite any longer."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def _live(self, receiver: trio.socket.SocketType, started: Callable[[str], None]) -> int:
        """Run the process once and give its exit code."""
        process = await trio.lowlevel.open_process(
            self._command,
            env=_environment()
            | {
                "NOTIFY_SOCKET": str(self._notify_path),
                SECONDS_VARIABLE: str(int(self._silence_seconds * 1e6)),
                PROCESS_VARIABLE: "",  # not the one that systemd may have named to the agent
            },
            start_new_session=True,  # Ctrl-C reaches the agent, which ends the node first
        )
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
        """Pass on that it is ready, and kill it when it falls silent. Runs until cancelled."""
        patience = math.inf  # until it first speaks: a start may take long
        while True:
            with trio.move_on_after(patience) as silence:
                message = (await receiver.recv(_MESSAGE_BYTES)).decode(errors="replace")
            if silence.cancelled_caught:
                _log.error("the %s hangs: no word for %s s, killing it", self.name, patience)
                process.kill()
                patience = math.inf
                continue
            patience = self._silence_seconds
            fields = dict(line.partition("=")[::2] for line in message.splitlines())
            if fields.get("READY") == "1":
                started(fields.get("X_URL", ""))

    async def _stop(self, process: trio.Process) -> None:
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(self._stop_seconds, shield=True) as grace:
            await process.wait()
        if grace.cancelled_caught:
            _log.error("the %s did not end within %s s: killing it", self.name, self._stop_seconds)
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def _environment() -> dict[str, str]:
    """Return what a process inherits: without the settings, which it gets as flags."""
    return {n: text for n, text in os.environ.items() if not n.startswith(ENVIRONMENT_PREFIX)}


@contextlib.contextmanager
def _notifications(path: Path) -> Iterator[trio.socket.SocketType]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        yield trio.socket.from_stdlib_socket(bound)


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"status {code}"
