"""Takes the results of one engine process, and kills a process that hangs."""

import logging
import time
from collections.abc import Callable

import trio

from node.engine import protocol
from node.engine.held_model import HeldModel
from node.engine.link import Link
from shared.runtime.silence import wait_silence

_log = logging.getLogger(__name__)


async def take_results(
    model: HeldModel, link: Link, stall_seconds: float, resized: Callable[[], None]
) -> None:
    """Pass the engine's results to their jobs. Ends when the engine is gone.

    Args:
        model: Its model, with the jobs.
        link: The engine.
        stall_seconds: An engine with a job that makes no progress for this long is killed.
        resized: Called when it works on more or fewer requests at once.
    """
    async with trio.open_nursery() as nursery:
        name = f"watchdog of {model.model_id}"
        nursery.start_soon(_watch, model, link, stall_seconds, name=name)
        while results := await link.receive():
            _take(model, results, resized)
        nursery.cancel_scope.cancel()


def _take(model: HeldModel, results: list[protocol.Result], resized: Callable[[], None]) -> None:
    if not all(isinstance(result, protocol.NO_PROGRESS) for result in results):
        model.progressed_at = time.time()
        model.worked = True
    model.jobs.take(results)
    sizes = [result.slots for result in results if isinstance(result, protocol.Resized)]
    if sizes and model.ready:
        model.resize(sizes[-1])
        resized()


async def _watch(model: HeldModel, link: Link, stall_seconds: float) -> None:
    """Kill an engine that hangs. Runs until then or until cancelled."""
    await wait_silence(model.last_sign, stall_seconds)
    _log.error("model %s made no progress for %s s: restarting", model.model_id, stall_seconds)
    link.kill(stalled=True)
