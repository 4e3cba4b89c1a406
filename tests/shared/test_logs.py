"""Log lines under systemd's journal, elsewhere, and as JSON."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

PROGRAM = """
import logging
from shared.command import run_command
from shared.settings.base import Settings

def start(settings):
    log = logging.getLogger("place")
    log.debug("unseen")
    log.info("it goes")
    log.warning("take care")
    log.warning("the file %s is odd", "caf\\udce9\\n<1>forged \\x1b[2J")
    try:
        int("many")
    except ValueError:
        log.exception("it failed")
    raise OSError("cannot start")

raise SystemExit(run_command("tool", "about", Settings, start, OSError))
"""


def log_lines(path: Path, *, journal: bool, form: str = "text", zone: str = "UTC") -> list[str]:
    """Run a command whose standard error is a file, declared to be the journal or not."""
    with path.open("w") as stderr:
        status = os.fstat(stderr.fileno())
        named = f"{status.st_dev}:{status.st_ino if journal else status.st_ino + 1}"
        environment = {"JOURNAL_STREAM": named, "DISTRIBUTED_LLM_LOG_FORMAT": form, "TZ": zone}
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stderr=stderr,
            env=os.environ | environment,
            check=False,
            timeout=60,
        )
    return path.read_text().splitlines()


@pytest.mark.parametrize("form", ["text", "json"])
def test_journald_gets_each_lines_priority(tmp_path: Path, form: str) -> None:
    """Every line has a priority, including the lines of a traceback."""
    lines = log_lines(tmp_path / "log", journal=True, form=form)
    assert [line[:3] for line in lines[:3]] == ["<6>", "<4>", "<4>"]
    assert {line[:3] for line in lines[3:]} == {"<3>"}
    assert lines[-1] == "<3>tool: cannot start"
    if form == "text":
        assert lines[0] == "<6>INFO    place: it goes"  # journald records the time itself
        assert "<3>ValueError: invalid literal for int() with base 10: 'many'" in lines


def test_nobody_else_gets_priorities(tmp_path: Path) -> None:
    """A process whose standard error was redirected writes plain lines with a time."""
    lines = log_lines(tmp_path / "log", journal=False)
    assert not [line for line in lines if line.startswith("<")]
    assert lines[0].endswith("INFO    place: it goes")
    assert lines[-1] == "tool: cannot start"


def test_text_that_is_odd_stays_one_line(tmp_path: Path) -> None:
    """Undecodable bytes, line breaks and escape sequences in a name are escaped."""
    lines = log_lines(tmp_path / "log", journal=False)
    assert lines[2].endswith(r"place: the file caf\udce9\n<1>forged \x1b[2J is odd")


def test_json_has_the_time_in_utc(tmp_path: Path) -> None:
    """Times are RFC 3339 with milliseconds and offset, in every time zone."""
    before = datetime.now(UTC)
    lines = log_lines(tmp_path / "log", journal=False, form="json", zone="Asia/Kathmandu")
    for time in [json.loads(line)["time"] for line in lines[:-1]]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
        seconds = (datetime.fromisoformat(time) - before).total_seconds()
        assert -0.001 <= seconds <= (datetime.now(UTC) - before).total_seconds()


def test_json_holds_odd_text(tmp_path: Path) -> None:
    """Every line is valid JSON, for any text."""
    lines = log_lines(tmp_path / "log", journal=False, form="json")
    message = json.loads(lines[2])["message"]
    assert message == "the file caf\\udce9\n<1>forged \x1b[2J is odd"
    assert message.encode()
