"""`distributed-llm-exporter top` against a real exporter with a real node, in a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.commands import run
from tests.patience import patient
from tests.processes import Pair, Running, wait_for

TOKEN: Final = "a-token-of-an-operator"
LEAVE: Final = b"\x1b[?1049l"
"""What gives the terminal's first screen back (xterm's control sequences)."""
pytestmark = pytest.mark.slow


class Terminal:
    """A process in a terminal, and everything that it has written there."""

    def __init__(self, process: "subprocess.Popen[bytes]", screen: int) -> None:
        self.process = process
        self._screen = screen
        self.written = b""

    def has(self, words: bytes) -> bool:
        """Read what is there, and return whether the words were written since the last match."""
        if select.select([self._screen], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # Linux: the other side is closed
                self.written += os.read(self._screen, 2**16)
        found = words in self.written
        if found:
            self.written = self.written.partition(words)[2]
        return found

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._screen, key)


@contextlib.contextmanager
def in_terminal(*arguments: str) -> Iterator[Terminal]:
    """Run `top` in a terminal of its own."""
    screen, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    # In a session of its own whose terminal this is, so that Ctrl-C reaches it.
    command = ["setsid", "--ctty", sys.executable, "-m", "exporter", "top", *arguments]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, env=environment
    ) as process:
        os.close(other)
        try:
            yield Terminal(process, screen)
        finally:
            process.kill()
            os.close(screen)


def test_top_shows_the_node_and_ends_with_ctrl_c(
    shared_exporter: Running, shared_node: Running
) -> None:
    """The terminal shows node and model, and is as before after Ctrl-C."""
    del shared_node
    with in_terminal(shared_exporter.url) as terminal:
        wait_for(lambda: terminal.has(b"node1"))
        wait_for(lambda: terminal.has(b"demo"))
        terminal.press(b"\x03")
        wait_for(lambda: terminal.has(LEAVE))
        assert terminal.process.wait(patient(20)) == 0


def test_lost_exporter_is_shown_and_found_again(pair: Pair) -> None:
    """When the exporter ends, `top` says so, and goes on when it is back."""
    with pair.exporter() as exporter, in_terminal(exporter.url) as terminal:
        wait_for(lambda: terminal.has(b"live"))
        exporter.end(signal.SIGTERM)
        wait_for(lambda: terminal.has(b"LOST, retrying"))
        with pair.exporter(f"--metrics-port={urlsplit(exporter.url).port}"):
            wait_for(lambda: terminal.has(b"live"))


def test_token_is_required_and_accepted(pair: Pair, tmp_path: Path) -> None:
    """Without the token `top` ends with one line that names the flag."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with pair.exporter(f"--metrics-token-file={tokens}") as exporter:
        refused = run("exporter", "top", exporter.url)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "--token-file" in refused.stderr
        known = run("exporter", "top", exporter.url, f"--token-file={tokens}")
        assert re.match(r"needs attention +[\d:]{8} +exporter ", known.stdout)
        with in_terminal(exporter.url) as terminal:
            wait_for(lambda: terminal.has(b"set --token-file"))
            assert terminal.process.wait(patient(20)) == 1
