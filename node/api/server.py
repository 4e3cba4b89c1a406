"""Serves the application on hypercorn."""

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import hypercorn.trio
import trio
from hypercorn.config import Config

from node.api.asgi import Application, finish_sends, report
from shared.events import Event

_KEEP_ALIVE_SECONDS: Final = 75
_CLOSING_SECONDS: Final = 1.0


async def serve(
    application: Application,
    host: str,
    port: int,
    emit: Callable[[Event], None],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until `stop` is set.

    Raises:
        OSError: The port cannot be had (in a group).
    """
    config = Config()
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    config.include_server_header = False
    config.graceful_timeout = _CLOSING_SECONDS  # the scheduler drained before `stop`
    config.errorlog = logging.getLogger("hypercorn.error")
    wrapped: Any = report(finish_sends(application), emit)
    run = functools.partial(hypercorn.trio.serve, wrapped, config, shutdown_trigger=stop.wait)
    async with trio.open_nursery() as nursery:
        urls: list[str] = await nursery.start(run, name="api")
        task_status.started(urls[0])
