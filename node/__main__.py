"""The command `distributed-llm-node`."""

import sys

import trio

from node import main as composition
from node.errors import StartupError
from node.routing import explain
from node.settings import NodeSettings
from shared.command import guard, run_command


def main() -> None:
    """Run the node, or the subcommand that was given, and exit with its code."""
    if sys.argv[1:2] == ["plan"]:
        sys.exit(guard(explain.PROGRAM, lambda: explain.main(sys.argv[2:]), StartupError))
    sys.exit(
        run_command(
            "distributed-llm-node",
            "Serve a model over HTTP and write metric events to the exporter's socket.",
            NodeSettings,
            lambda settings: trio.run(composition.run, settings),
            StartupError,
        )
    )


if __name__ == "__main__":
    main()
