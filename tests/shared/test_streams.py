"""A process survives standard streams that are closed, full, stuck or narrow."""

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

EXPORTER = [sys.executable, "-m", "exporter"]
NODE = [sys.executable, "-m", "node"]
AGENT = [sys.executable, "-m", "node.agent"]


def run_python(program: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    """Run a program that uses the streams."""
    command = [sys.executable, "-c", f"import os, sys\nfrom shared import streams\n{program}"]
    return subprocess.run(command, check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_stream_is_not_taken_by_the_next_file(closed: str, tmp_path: Path) -> None:
    """Output of a library to a closed stream does not end up in a file of ours."""
    told = tmp_path / "told"
    program = (
        "import os, sys\nfrom shared import streams\nstreams.make_usable()\n"
        f"file = os.open({str(told)!r}, os.O_WRONLY | os.O_CREAT)\n"
        "print('said'); print('said', file=sys.stderr); streams.write('said')\n"
        "os.write(1, b'said'); os.write(2, b'said')\n"
        "os.write(file, b'%d' % (file > 2))\n"
    )
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=60)
    assert (done.returncode, told.read_text()) == (0, "1")


def test_log_that_nobody_reads_is_cut_not_waited_for() -> None:
    """Lines that do not fit into a full pipe are dropped and counted; written ones are kept."""
    read_end, write_end = os.pipe()
    program = (
        "streams.make_usable()\n"
        "for number in range(5000): print(f'line {number:<80}', file=sys.stderr)\n"
        "os.write(1, b'went on'); os.read(0, 1)\n"
        "print('the last', file=sys.stderr)"
    )
    command = [sys.executable, "-c", f"import os, sys\nfrom shared import streams\n{program}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write_end
    ) as process:
        os.close(write_end)
        assert process.stdin
        assert process.stdout
        assert process.stdout.read(7) == b"went on"
        said = os.read(read_end, 2**20)
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        said += os.read(read_end, 2**20)
    os.close(read_end)
    assert said.startswith(b"line 0 ")
    assert said.endswith(b"lines before this one could not be written)\nthe last\n")


@pytest.mark.parametrize("kind", ["full", "broken"])
def test_log_that_cannot_be_written_is_no_error(kind: str) -> None:
    """A full disk or a reader that left loses the lines and does not change the exit code."""
    program = "streams.make_usable()\nfor _ in range(999): print('x' * 99, file=sys.stderr)"
    with _unusable(kind) as stream:
        assert run_python(program, stderr=stream).returncode == 0


def test_any_character_can_be_written() -> None:
    """Characters that the encoding lacks, and undecodable bytes, are escaped."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    program = (
        "streams.make_usable()\nstreams.write('caf\\u00e9 \\udcff\\n')\n"
        "print('caf\\u00e9 \\udcff', file=sys.stderr)"
    )
    done = run_python(program, env=environment, capture_output=True)
    assert done.returncode == 0
    assert done.stdout == done.stderr == b"caf\\xe9 \\udcff\n"


def _unusable(kind: str) -> BinaryIO:
    if kind == "full":
        return Path("/dev/full").open("wb", buffering=0)
    read_end, write_end = os.pipe()
    os.close(read_end)
    return os.fdopen(write_end, "wb", buffering=0)


COMMANDS: list[list[str]] = [
    [*AGENT, "--help"],
    [*NODE, "plan", "--help"],
    [*EXPORTER, "check", "--state-dir=/nonexistent/state"],
]
ALIKE: list[list[str]] = [[*NODE, "--help"], [*EXPORTER, "--help"]]


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, *(pytest.param(command, marks=pytest.mark.slow) for command in ALIKE)],
    ids=lambda command: " ".join(command[2:]),
)
def test_command_without_a_usable_output_is_one_line(command: list[str]) -> None:
    """Output that cannot be written is one line and code 1; a reader that left is code 0."""
    with _unusable("full") as stream:
        full = subprocess.run(
            command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert full.returncode == 1
    assert len(full.stderr.splitlines()) == 1, full.stderr
    assert full.stderr.endswith("standard output cannot be written: No space left on device\n")
    with _unusable("broken") as stream:
        broken = subprocess.run(
            command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (broken.returncode, broken.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["full", "broken"])
def test_complaint_that_cannot_be_written_leaves_the_exit_code(kind: str) -> None:
    """Wrong usage exits with 2, even if standard error cannot be written."""
    with _unusable(kind) as stream:
        done = subprocess.run([*AGENT, "--no-such-flag"], stderr=stream, check=False, timeout=60)
    assert done.returncode == 2


def test_argument_that_is_no_text_is_one_line() -> None:
    """Undecodable bytes of a command line are shown escaped."""
    command: list[str | bytes] = [*AGENT, b"--api-port=\xff\xfe"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert b"--api-port" in done.stderr
