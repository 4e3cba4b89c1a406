"""The command `distributed-llm-exporter`."""

import sys

import trio

from exporter import main as composition
from exporter.errors import StartupError
from exporter.settings import ExporterSettings
from shared.command import run_command


def main() -> None:
    """Run the exporter and exit with its code."""
    sys.exit(
        run_command(
            "distributed-llm-exporter",
            "Count a node's metric events and serve /metrics and /health.",
            ExporterSettings,
            lambda settings: trio.run(composition.run, settings),
            StartupError,
        )
    )


if __name__ == "__main__":
    main()
