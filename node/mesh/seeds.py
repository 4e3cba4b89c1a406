"""Resolves the seeds again and again, because a name's addresses may change."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from node.mesh.addresses import address_of, is_address
from shared.repeats import Repeats

LOOKUP_SECONDS: Final = 5.0
_ADDRESSES: Final = 256
"""Limit per name; a headless service of Kubernetes has as many addresses as pods."""

Resolve = Callable[[str, int], Awaitable[list[str]]]

_log = logging.getLogger(__name__)


async def resolve(host: str, port: int) -> list[str]:
    """Return the current addresses of a name; an IP address resolves to itself.

    Raises:
        OSError: The name has no address.
    """
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    # A link-local address has a scope, with which no peer can be dialed.
    usable = [address for *_, address in found if "%" not in str(address[0])]
    return [address_of(str(address[0]), int(address[1])) for address in usable]


async def watch_seed(
    seed: str,
    look_up: Resolve,
    found: Callable[[str, list[str]], None],
    failed: Callable[[], None],
) -> None:
    """Resolve a seed every few seconds. Runs until cancelled.

    Args:
        seed: A name or an IP address with a port.
        look_up: Returns a name's addresses.
        found: Called with the seed and its addresses. After a failure the last addresses stay
            valid.
        failed: Called on each failure.
    """
    repeats = Repeats(_log, trio.current_time)
    while True:
        try:
            found(seed, await _look_up(seed, look_up))
            repeats.settle(seed)
        except (OSError, ValueError, trio.TooSlowError) as error:
            failed()
            why = error if str(error) else f"no answer within {LOOKUP_SECONDS:g} s"
            repeats.note("cannot resolve the seed %s: %s", seed, why, kind=seed)
        await trio.sleep(LOOKUP_SECONDS)


async def _look_up(seed: str, look_up: Resolve) -> list[str]:
    host, _, port = seed.rpartition(":")
    with trio.fail_after(LOOKUP_SECONDS):
        named = await look_up(host.strip("[]"), int(port))
    usable = list(filter(is_address, named))[:_ADDRESSES]
    if not usable:
        raise ValueError("it has no address that can be dialed")
    return usable
