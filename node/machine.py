"""The cores and memory that this machine grants the process, by affinity and cgroups.

Sources: sched_getaffinity(2) and the kernel's cgroup v2 documentation (`cpu.max`, `memory.max`).
The tightest limit on the way up to the root applies.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

_CGROUPS: Final = Path("/sys/fs/cgroup")


def usable_cores(root: Path = _CGROUPS) -> float:
    """Return how many cores this process may use; fractional under a quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for directory in _own_cgroups(root):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory_bytes(root: Path = _CGROUPS) -> int:
    """Return the limit of this process's memory, in bytes."""
    limits = [_read(directory / "memory.max") for directory in _own_cgroups(root)]
    return min([psutil.virtual_memory().total, *map(int, filter(str.isdecimal, limits))])


def limited_memory_bytes(limit_bytes: int) -> int:
    """Return the limit of this process's memory, or an operator's if that is less; 0 for none."""
    return min(usable_memory_bytes(), limit_bytes or usable_memory_bytes())


def available_memory_bytes(root: Path = _CGROUPS) -> int:
    """Return the memory available without swapping, in bytes; cached files count as free.

    A cgroup's `memory.current` includes cached files; `inactive_file` of its `memory.stat` is the
    part that the kernel reclaims first.
    """
    free = [psutil.virtual_memory().available]
    for directory in _own_cgroups(root):
        limit, used = _read(directory / "memory.max"), _read(directory / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            statistics = dict(
                line.split() for line in _read(directory / "memory.stat").splitlines()
            )
            cached = int(statistics.get("inactive_file", 0))
            free.append(max(0, int(limit) - int(used) + cached))
    return min(free)


def engine_threads(cores: float) -> int:
    """Return the number of threads of an engine: one per whole core, minus one.

    Threads spin while they wait for each other, so one core too few costs more than one thread too
    few. The spare core is for the node, its clients and the exporter.
    """
    return max(1, int(cores) - 1)


def addresses() -> list[str]:
    """Return the IP addresses at which other machines may reach this one, IPv4 first."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    found = [
        (kinds.index(address.family), address.address)
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in kinds
    ]
    # A link-local address is not valid on other machines.
    usable = [(kind, ip) for kind, ip in sorted(found) if _is_reachable(ip)]
    return [ip for _, ip in usable]


def mebibytes(count: int) -> str:
    """Format a number of bytes for a person."""
    return f"{count / 2**20:,.0f} MiB"


def _is_reachable(address: str) -> bool:
    if "%" in address:
        return False
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_link_local)


def _own_cgroups(root: Path) -> Iterator[Path]:
    """Yield this process's cgroup and its ancestors, up to the mounted root."""
    own = _read(Path("/proc/self/cgroup")).rpartition("0::")[2].partition("\n")[0]
    directory = root / own.strip("/")
    yield from (d for d in (directory, *directory.parents) if d == root or root in d.parents)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
