"""The command `agent`."""

import sys

import trio

from node.agent import main as composition
from node.agent.settings import AgentSettings
from node.errors import StartupError
from shared.command import run_command


def main() -> None:
    """Run the agent and exit with its code."""
    sys.exit(
        run_command(
            "agent",
            "Run a node and its exporter on this machine and keep both alive.",
            AgentSettings,
            lambda settings: trio.run(composition.run, settings),
            StartupError,
        )
    )


if __name__ == "__main__":
    main()
