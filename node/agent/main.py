"""The agent's composition root: the exporter starts first and ends last, around the node."""

import logging
import signal
from collections.abc import AsyncIterator
from typing import Final

import trio

from node.agent import notifications
from node.agent.service import CannotStartError, Service
from node.agent.settings import AgentSettings
from node.settings import NodeSettings
from shared import streams
from shared.groups import leaves
from shared.runtime.descriptors import raise_descriptor_limit
from shared.runtime.notify import announce, notify, ping_watchdog
from shared.runtime.processes import PYTHON, reap_adopted
from shared.runtime.signals import stop_signals, watch_terminal
from shared.settings.exporter import MetricsSettings

_MARGIN_SECONDS: Final = 10.0
"""How long a process needs to end, in addition to the time for its running requests."""

_log = logging.getLogger(__name__)


async def run(settings: AgentSettings) -> int:
    """Run node and exporter until SIGTERM, SIGINT or SIGHUP; stop the node, then the exporter.

    Returns:
        0, or the exit code of the process that refused to start.

    Raises:
        StartupError: The agent itself cannot start here.
    """
    raise_descriptor_limit()
    notifications.prepare()
    settings = settings.with_node_id()
    settings.log()
    stopping = trio.CancelScope()
    exporter, node = _services(settings)
    code = 0
    with trio.open_signal_receiver(*stop_signals()) as signals:
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(_stop_on_signal, signals, stopping, node, name="signals")
                outer.start_soon(ping_watchdog, name="watchdog")
                outer.start_soon(reap_adopted, name="reaper")
                outer.start_soon(watch_terminal, name="terminal")
                with stopping:
                    metrics_url: str = await outer.start(exporter.run, name="exporter")
                    async with trio.open_nursery() as inner:
                        api_url: str = await inner.start(node.run, name="node")
                        _greet(_welcome(api_url, metrics_url))
                        await announce("READY=1", f"X_URL={api_url}")
                outer.cancel_scope.cancel()
        except* CannotStartError as group:
            code = leaves(group)[0].code
    return code


def _services(settings: AgentSettings) -> tuple[Service, Service]:
    """Return exporter and node, each with its share of the settings."""
    exporter = [*PYTHON, "-m", "exporter", *settings.as_flags(MetricsSettings)]
    node = [*PYTHON, "-m", "node", *settings.as_flags(NodeSettings)]
    return (
        Service("exporter", exporter, _MARGIN_SECONDS),
        Service("node", node, settings.drain_seconds + _MARGIN_SECONDS),
    )


async def _stop_on_signal(
    signals: AsyncIterator[int], stopping: trio.CancelScope, node: Service
) -> None:
    """Stop at the first signal, hurry the node at each further one. Runs until cancelled.

    A closing terminal sends SIGHUP more than once, so SIGHUP does not hurry the node.
    """
    number = await anext(signals)
    _log.info("%s: stopping the node, then the exporter", signal.Signals(number).name)
    notify("STOPPING=1")
    stopping.cancel()
    async for number in signals:
        if number != signal.SIGHUP:
            node.hurry()


def _greet(welcome: str) -> None:
    """Print the welcome text if possible; serving does not depend on it."""
    try:
        streams.write_nowait(welcome)
    except streams.UnwritableError as error:
        _log.warning("%s; the agent continues", error)


def _welcome(api_url: str, metrics_url: str) -> str:
    return f"""
distributed-llm is running; Ctrl-C stops it.

  API      {api_url}/v1
  status   {metrics_url}/
  health   {metrics_url}/health
  metrics  {metrics_url}/metrics

Try it in another terminal:

  curl -N {api_url}/v1/completions -d '{{"prompt": "Once upon a time", "stream": true}}'

"""
