"""The agent's composition root: the exporter around the node, so that it outlives it."""

import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import trio

from node.agent.service import CannotStartError, Service
from node.agent.settings import AgentSettings
from node.settings import NodeSettings
from shared.groups import leaves
from shared.runtime.descriptors import raise_descriptor_limit
from shared.runtime.notify import announce, notify, ping_watchdog
from shared.settings.exporter import MetricsSettings

_MARGIN_SECONDS: Final = 10.0
"""What a process needs to end beyond the time that it gives its requests."""

_log = logging.getLogger(__name__)


async def run(settings: AgentSettings) -> int:
    """Run node and exporter until SIGTERM or SIGINT, then stop the node, then the exporter.

    Returns:
        0, or the exit code of the process that refused to start.
    """
    raise_descriptor_limit()
    settings = settings.with_node_id()
    settings.log()
    stopping = trio.CancelScope()
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        tempfile.TemporaryDirectory(prefix="distributed-llm-agent-") as directory,
    ):
        exporter = Service(
            "exporter",
            [sys.executable, "-m", "exporter", *settings.as_flags(MetricsSettings)],
            Path(directory),
            _MARGIN_SECONDS,
        )
        node = Service(
            "node",
            [sys.executable, "-m", "node", *settings.as_flags(NodeSettings)],
            Path(directory),
            settings.drain_seconds + _MARGIN_SECONDS,
        )
        code = 0
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(_stop_on_signal, signals, stopping, node, name="signals")
                outer.start_soon(ping_watchdog, name="watchdog")
                with stopping:
                    metrics_url: str = await outer.start(exporter.run, name="exporter")
                    async with trio.open_nursery() as inner:
                        api_url: str = await inner.start(node.run, name="node")
                        sys.stdout.write(_welcome(api_url, metrics_url))
                        sys.stdout.flush()
                        await announce("READY=1", f"X_URL={api_url}")
                outer.cancel_scope.cancel()
        except* CannotStartError as group:
            code = leaves(group)[0].code
    return code


async def _stop_on_signal(
    signals: AsyncIterator[int], stopping: trio.CancelScope, node: Service
) -> None:
    """Stop at the first signal, hurry the node at each further one. Runs until cancelled."""
    number = await anext(signals)
    _log.info("%s: stopping the node, then the exporter", signal.Signals(number).name)
    notify("STOPPING=1")
    stopping.cancel()
    async for _ in signals:
        node.hurry()


def _welcome(api_url: str, metrics_url: str) -> str:
    return f"""
distributed-llm is running; Ctrl-C stops it.

  API      {api_url}/v1
  health   {metrics_url}/health
  metrics  {metrics_url}/metrics

Try it in another terminal:

  curl -N {api_url}/v1/completions -d '{{"prompt": "Once upon a time", "stream": true}}'

"""
