"""Where a node is reached: an IP address and a port, written one way only."""

import functools
import ipaddress

from node import machine


def address_of(host: str, port: int) -> str:
    """Return an IP address and a port in the one form in which they are compared.

    Raises:
        ValueError: `host` is not an IP address or has a scope, or nothing can listen on `port`.
    """
    ip = ipaddress.ip_address(host)
    if not 0 < port < 2**16 or "%" in host:
        raise ValueError(f"{host} port {port} cannot be dialed")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


@functools.lru_cache(maxsize=2048)
def is_address(text: str) -> bool:
    """Whether text from elsewhere is an address as `address_of` writes them."""
    host, _, port = text.rpartition(":")
    try:
        return address_of(host.strip("[]"), int(port)) == text
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Whether an address, in the form of `address_of`, is this machine's own."""
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback


def own_addresses(bound: str) -> tuple[str, ...]:
    """Return where other machines reach a listener on the address `bound`."""
    host, _, port = bound.rpartition(":")
    ip = ipaddress.ip_address(host.strip("[]"))
    if not ip.is_unspecified:
        return (bound,)
    found = [address for address in machine.addresses() if ip.version == 6 or ":" not in address]
    return tuple(address_of(address, int(port)) for address in found)
