"""Draws the dashboard without a Grafana: `just dashboard-preview`.

Runs a node, its exporter and a Prometheus under load for a while, asks for every panel's queries as
Grafana would, and draws all panels on one sheet, `.local/dashboard.png`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.monitoring.drawing import Drawn, draw_sheet
from tests.monitoring.promql import fill_in
from tests.monitoring.scene import scene
from tests.monitoring.sources import REPOSITORY, panels
from tests.prometheus import query, query_range

_SHEET: Final = REPOSITORY / ".local" / "dashboard.png"
_STEP_SECONDS: Final = 1.0
_RATE: Final = "10s"
"""What `$__rate_interval` is where scrapes are a second apart."""


def evaluate(prometheus: str, began: float, ended: float) -> list[Drawn]:
    """Ask for what each panel shows."""
    drawn = []
    for panel in panels():
        results = []
        for target in panel.get("targets", ()):
            asked = fill_in(target["expr"], _RATE, f"{max(5, int(ended - began))}s")
            if target.get("instant"):
                result = query(prometheus, asked, ended)
            else:
                result = query_range(prometheus, asked, began, ended, _STEP_SECONDS)
            results.append((target.get("legendFormat", ""), result))
        drawn.append(Drawn(panel, results))
    return drawn


def main() -> None:
    """Run it all and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long the load lasts")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory, scene(Path(directory)) as running:
        time.sleep(seconds)
        drawn = evaluate(running.prometheus, running.began, time.time())
    _SHEET.parent.mkdir(exist_ok=True)
    draw_sheet(drawn, _SHEET)
    sys.stdout.write(f"{_SHEET}\n")


if __name__ == "__main__":
    main()
