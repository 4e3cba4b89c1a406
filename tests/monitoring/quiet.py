"""Runs a node under an ordinary load and names each alert that it raised: `just quiet-run`.

Node, exporter, Prometheus, its configuration and rules are the real ones, at their real pace.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from tests.monitoring.scene import ask, load, read_stream
from tests.monitoring.sources import PROMETHEUS, RULES
from tests.processes import Pair
from tests.prometheus import configured_prometheus, query

ALWAYS: Final = "Watchdog"
"""The dead-man's switch, which has to fire."""


class Quiet(NamedTuple):
    """What happened in a run."""

    requests: int
    """Answered requests."""
    alerts: frozenset[tuple[str, str]]
    """Each alert that was raised at some time, with its state, `pending` or `firing`."""

    @property
    def unexpected(self) -> set[str]:
        """The names of alerts that should not have been raised."""
        return {name for name, _ in self.alerts} - {ALWAYS}


def quiet_run(directory: Path, seconds: float) -> Quiet:
    """Run it all for a time with clients that wait for their answers."""
    pair = Pair(directory)
    with ExitStack() as stack:
        exporter = stack.enter_context(pair.exporter())
        node = stack.enter_context(pair.node())
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["rule_files"] = [str(file) for file in RULES]
        target = exporter.url.removeprefix("http://")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        url = stack.enter_context(configured_prometheus(directory / "prometheus", config))
        stack.enter_context(load(node.url, ask, read_stream))
        time.sleep(seconds)
        window = f"[{int(seconds) + 60}s]"
        raised = query(url, f"count by (alertname, alertstate) (count_over_time(ALERTS{window}))")
        requests = "distributed_llm_inference_requests_total"
        answered = query(url, f'sum(last_over_time({requests}{{status="ok"}}{window}))')
    return Quiet(
        int(float(answered[0]["value"][1])) if answered else 0,
        frozenset((row["metric"]["alertname"], row["metric"]["alertstate"]) for row in raised),
    )


def main() -> None:
    """Run it and print what happened; exit with 1 after any alert but the dead-man's switch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long the load lasts")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="quiet-") as directory:
        quiet = quiet_run(Path(directory), minutes * 60)
    print(f"{quiet.requests} requests answered in {minutes:g} minutes")
    for name, state in sorted(quiet.alerts):
        print(f"{state:8} {name}")
    sys.exit(1 if quiet.unexpected or (ALWAYS, "firing") not in quiet.alerts else 0)


if __name__ == "__main__":
    main()
