"""Where a node is reached: an IP address and a port, written one way only."""

import ipaddress

from node import machine


def address_of(host: str, port: int) -> str:
    """Write an IP address and a port the one way that they are compared in.

    Raises:
        ValueError: `host` is no IP address, or `port` none of a listener.
    """
    ip = ipaddress.ip_address(host)
    if not 0 < port < 2**16 or "%" in host:
        raise ValueError(f"{host} port {port} cannot be dialed")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def is_address(text: str) -> bool:
    """Whether somebody else's text is an address as `address_of` writes them."""
    host, _, port = text.rpartition(":")
    try:
        return address_of(host.strip("[]"), int(port)) == text
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback


def own_addresses(bound: str) -> tuple[str, ...]:
    """Give where a listener on the address `bound` is reached by other machines."""
    host, _, port = bound.rpartition(":")
    ip = ipaddress.ip_address(host.strip("[]"))
    if not ip.is_unspecified:
        return (bound,)
    found = [address for address in machine.addresses() if ip.version == 6 or ":" not in address]
    return tuple(address_of(address, int(port)) for address in found)
