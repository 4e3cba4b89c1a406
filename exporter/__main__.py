"""The command `distributed-llm-exporter`."""

import sys
from typing import Final

import trio

from exporter import main as composition
from exporter.errors import StartupError
from exporter.settings import ExporterSettings
from exporter.tools import check, replay, requests, tail, top
from shared.command import Subcommand, run_command

_SUBCOMMANDS: Final = {
    "top": Subcommand(top.ABOUT, top.TopSettings, top.top),
    "tail": Subcommand(tail.ABOUT, tail.TailSettings, tail.tail),
    "replay": Subcommand(replay.ABOUT, replay.ReplaySettings, replay.replay),
    "requests": Subcommand(requests.ABOUT, requests.RequestsSettings, requests.requests),
    "check": Subcommand(check.ABOUT, ExporterSettings, check.check),
}


def main() -> None:
    """Run the exporter, or what helps with one, and exit with its code."""
    sys.exit(
        run_command(
            "distributed-llm-exporter",
            "Count a node's metric events and serve /metrics and /health.",
            ExporterSettings,
            lambda settings: trio.run(composition.run, settings),
            StartupError,
            subcommands=_SUBCOMMANDS,
        )
    )


if __name__ == "__main__":
    main()
