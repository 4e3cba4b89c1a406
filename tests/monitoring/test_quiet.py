"""Nothing is raised while nothing is wrong; `just quiet-run` shows the same for ten minutes."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.monitoring.quiet import ALWAYS, quiet_run

SECONDS: Final = 75
"""Longer than the shortest `for` of any alert, with five evaluations."""
OF_THE_MACHINE: Final = {
    "FirstTokenBudgetBurn",
    "HighLatency",
    "MemoryPressure",
    "StateDiskFilling",
    "SwapPressure",
}
"""Alerts that a machine may rightly raise which others use as well."""


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("prometheus"),
    reason="needs prometheus on PATH (Debian: apt-get install prometheus)",
)
def test_load_without_a_fault_raises_nothing(tmp_path: Path) -> None:
    """Under an ordinary load only the dead-man's switch fires, and nothing else is pending."""
    quiet = quiet_run(tmp_path, SECONDS)
    assert quiet.requests
    assert (ALWAYS, "firing") in quiet.alerts
    assert not quiet.unexpected - OF_THE_MACHINE
