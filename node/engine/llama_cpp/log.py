"""What llama-server's log says of memory and of failures; no I/O."""

import re
import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

_MEBIBYTE: Final = 2**20
_HOST: Final = "CPU"
_BUFFER: Final = re.compile(r"(\S+)\s+(?:\w+ )?buffer size\s*=\s*([\d.]+) MiB")
"""As `CUDA0 model buffer size = 12.00 MiB`: device and kind of buffer, then the size."""
_LEVEL: Final = re.compile(r"[\d.]+ ([A-Z]) ")
"""The prefix of a line: its time and the first letter of its level."""
_SEVERE: Final = frozenset("WE")

_NEWER: Final = "set --llama-server to a newer one"
_CAUSES: Final[Sequence[tuple[re.Pattern[str], str]]] = tuple(
    (re.compile(pattern), explanation)
    for pattern, explanation in (
        (
            r"unknown model architecture: '(.*?)'",
            f"it does not know the architecture {{0}}: {_NEWER}",
        ),
        (
            r"invalid argument: (\S+)",
            f"it does not know the flag {{0}}: check --llama-server-args, or {_NEWER}",
        ),
        (
            r"error while loading shared libraries: (.*?): cannot open",
            "it needs the library {0}: install it, or set --llama-server to another build",
        ),
        (r"cannot be run: (.*)", "it cannot be run ({0}): check --llama-server"),
        (
            r"couldn't bind HTTP server socket, hostname: (.*), port",
            "it cannot listen on {0}: check --runtime-dir",
        ),
        (
            r"((?:failed|unable) to allocate.*|.*[Mm]alloc failed.*|.*out of memory.*)",
            "its memory does not suffice ({0}): lower --context-length, --slots or --gpu-layers",
        ),
    )
)
"""Lines that name a cause, with the explanation for the operator."""
NO_ACCELERATOR: Final = (
    "it has no GPU for --gpu-layers: set --llama-server to a build for this machine's GPU, or "
    "--gpu-layers to 0"
)
_END_OF_LOAD: Final = ("model loaded", "listening on")
_SIGNALS: Final[Mapping[int, str]] = {
    signal.SIGILL: "it was compiled for another CPU: set --llama-server to a build for this one",
}


def is_severe(line: str) -> bool:
    """Return whether a line is a warning or an error."""
    level = _LEVEL.match(line)
    return level is not None and level[1] in _SEVERE


def message_of(line: str) -> str:
    """Return a line without its time and level."""
    return line[found.end() :].strip() if (found := _LEVEL.match(line)) else line.strip()


def is_end_of_load(line: str) -> bool:
    """Return whether a line says that the model is loaded."""
    return any(text in line for text in _END_OF_LOAD)


def ending(code: int) -> str:
    """Return how a process ended, by its exit status, as a predicate."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"


class Memory:
    """Sums the buffers of each device, line by line.

    Args:
        remote_names: Names of remote devices by their endpoints.
    """

    def __init__(self, remote_names: Mapping[str, str] = MappingProxyType({})) -> None:
        self._bytes: dict[str, int] = {}
        self._remote_names = remote_names

    def read(self, line: str) -> None:
        """Add the buffer that a line reports, if any."""
        if found := _BUFFER.search(line):
            is_host = found[1].startswith(_HOST) or "_Host" in found[1]
            device = _HOST if is_host else self._name(found[1])
            size = int(float(found[2]) * _MEBIBYTE)
            self._bytes[device] = self._bytes.get(device, 0) + size

    def _name(self, device: str) -> str:
        """Return the name of a device; a remote one is `RPC0[127.0.0.1:50052]` to the server."""
        endpoint = device.partition("[")[2].rstrip("]")
        return self._remote_names.get(endpoint, device)

    @property
    def devices(self) -> tuple[tuple[str, int], ...]:
        """Each device with the bytes that it holds."""
        return tuple(sorted(self._bytes.items()))

    @property
    def has_accelerator(self) -> bool:
        """Whether any device besides the CPU holds a part of the model."""
        return bool(self._bytes.keys() - {_HOST})


def explain_end(lines: Sequence[str], code: int) -> str:
    """Return why a server ended before its model was loaded: cause and remedy, one line.

    Args:
        lines: The last lines of its log.
        code: Its exit status; the negative number of the signal that killed it.
    """
    said = [message_of(line) for line in lines]
    for pattern, explanation in _CAUSES:
        for line in said:
            if found := pattern.search(line):
                return explanation.format(*found.groups())
    if -code in _SIGNALS:
        return _SIGNALS[-code]
    return f"it {ending(code)}: {_last_words(lines)}"


def _last_words(lines: Sequence[str]) -> str:
    """Return the first error, which is the nearest to the cause, else the last line."""
    known = [line for line in lines if line.strip()]
    errors = [line for line in known if (level := _LEVEL.match(line)) and level[1] == "E"]
    if not known:
        return "it said nothing; is it a llama-server?"
    return message_of(errors[0] if errors else known[-1])
