"""Looks the seeds up, again and again: a name may stand for other addresses later."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from node.mesh.addresses import address_of

LOOKUP_SECONDS: Final = 5.0
_ADDRESSES: Final = 256
"""Of one name; a headless service of Kubernetes has as many as it has pods."""

Resolve = Callable[[str, int], Awaitable[list[str]]]

_log = logging.getLogger(__name__)


async def resolve(host: str, port: int) -> list[str]:
    """Give the addresses that a name stands for now; an IP address stands for itself.

    Raises:
        OSError: It stands for none.
    """
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return [address_of(str(address[0]), int(address[1])) for *_, address in found]


async def watch_seeds(
    seeds: Iterable[str],
    look_up: Resolve,
    found: Callable[[str, list[str]], None],
    failed: Callable[[], None],
) -> None:
    """Look each seed up every few seconds. Runs until cancelled.

    Args:
        seeds: Each a name or an IP address with a port.
        look_up: Gives a name's addresses.
        found: Takes a seed and its addresses; after a failure the last ones stay.
        failed: Called at each failure.
    """
    complained: set[str] = set()
    while True:
        for seed in seeds:
            host, _, port = seed.rpartition(":")
            try:
                with trio.fail_after(LOOKUP_SECONDS):
                    addresses = await look_up(host.strip("[]"), int(port))
            except (OSError, ValueError, trio.TooSlowError) as error:
                failed()
                if seed not in complained:
                    _log.warning("the seed %s cannot be looked up: %s", seed, error)
                complained.add(seed)
            else:
                complained.discard(seed)
                found(seed, addresses[:_ADDRESSES])
        await trio.sleep(LOOKUP_SECONDS)
