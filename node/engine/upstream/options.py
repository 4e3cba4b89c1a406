"""How a model on a server elsewhere is described and reached, in place of a file and a process."""

from pathlib import Path
from typing import Final

from node.engine.choice import Wanted
from node.engine.options import EngineOptions
from node.engine.protocol import Described
from node.engine.upstream.address import Address
from node.engine.upstream.client import trust
from node.engine.upstream.link import UpstreamOptions, open_upstream

SLOTS: Final = 8
"""Requests that a server gets at once by default. A guess: small ones decode four, large ones
hundreds."""
_CHECK_SECONDS: Final = 60.0
"""More than the link takes to find out that a server does not answer."""


def upstream_options(
    address: Address, model_id: str, wanted: Wanted, stall_seconds: float
) -> EngineOptions:
    """Return how to use the model at an address. Reads the files that the address names.

    Args:
        address: Where the model is.
        model_id: Its name here.
        wanted: How it is to be used; the engine does not matter.
        stall_seconds: A request without progress for this long is given up there.

    Raises:
        StartupError: A file cannot be used.
    """
    address.read_key()
    trust(address)
    options = UpstreamOptions(address, model_id, stall_seconds)

    async def locate() -> Path:
        return Path(str(address))  # no file: nothing notices a replacement

    async def describe(_: Path) -> Described:
        return _describe(wanted)

    return EngineOptions(
        place=str(address),
        locate=locate,
        describe=describe,
        open_link=lambda _: open_upstream(options),
        threads=0,
        batch_tokens={"upstream": 0},
        load_seconds=_CHECK_SECONDS,
        # The link gives up stalled requests one by one; the supervisor would drop all of them.
        stall_seconds=2 * stall_seconds,
    )


def _describe(wanted: Wanted) -> Described:
    """Describe a model without a file: nothing is known of it but its use."""
    return Described(
        engine="upstream",
        architecture="",
        quantization="",
        size_bytes=0,
        layers=0,
        context_length=wanted.context_length,
        position_bytes=0,
        slots=wanted.slots or SLOTS,
    )
