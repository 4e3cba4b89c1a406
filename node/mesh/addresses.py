"""Where a node is reached: an IP address and a port, in one canonical form."""

import functools
import ipaddress

from node import machine


def address_of(host: str, port: int) -> str:
    """Return an IP address and a port in the canonical form, which can be compared.

    Raises:
        ValueError: `host` is not an IP address or has a scope, or `port` cannot be listened on.
    """
    ip = ipaddress.ip_address(host)
    if not 0 < port < 2**16 or "%" in host:
        raise ValueError(f"{host} port {port} cannot be dialed")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


@functools.lru_cache(maxsize=2048)
def is_address(text: str) -> bool:
    """Return whether text from elsewhere is an address in the form of `address_of`."""
    host, _, port = text.rpartition(":")
    try:
        return address_of(host.strip("[]"), int(port)) == text
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Return whether an address, in the form of `address_of`, is a loopback address."""
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback


def own_addresses(bound: str) -> tuple[str, ...]:
    """Return the addresses at which other machines reach a listener bound to `bound`."""
    host, _, port = bound.rpartition(":")
    ip = ipaddress.ip_address(host.strip("[]"))
    if not ip.is_unspecified:
        return (bound,)
    found = [address for address in machine.addresses() if ip.version == 6 or ":" not in address]
    return tuple(address_of(address, int(port)) for address in found)
