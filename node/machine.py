"""What this machine grants the process: cores and memory, cut by affinity and by cgroup limits.

Sources: sched_getaffinity(2) and the kernel's cgroup v2 documentation (`cpu.max`, `memory.max`),
where the tightest limit on the way up to the root holds.
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
    """Count the cores that this process may use, a fraction where a quota says so."""
    cores = float(len(os.sched_getaffinity(0)))
    for directory in _own_cgroups(root):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory_bytes(root: Path = _CGROUPS) -> int:
    """Tell how much memory this process may use at the most."""
    limits = [_read(directory / "memory.max") for directory in _own_cgroups(root)]
    return min([psutil.virtual_memory().total, *map(int, filter(str.isdecimal, limits))])


def available_memory_bytes(root: Path = _CGROUPS) -> int:
    """Tell how much memory could be had now without swapping, files in the cache counted as free.

    A cgroup's `memory.current` holds its cached files too; `inactive_file` of its `memory.stat`
    is the part that the kernel gives up first.
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
    """Choose how many threads evaluate: one for each whole core but one.

    They spin while they wait for each other, so that a core short of them all costs more than a
    core too few; the last one is for the node, its clients and the exporter.
    """
    return max(1, int(cores) - 1)


def addresses() -> list[str]:
    """List the IP addresses by which other machines may reach this one, IPv4 first."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    found = [
        (kinds.index(address.family), address.address)
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in kinds
    ]
    # An address of the link alone means nothing elsewhere.
    usable = [(kind, ip) for kind, ip in sorted(found) if _is_reachable(ip)]
    return [ip for _, ip in usable]


def _is_reachable(address: str) -> bool:
    if "%" in address:
        return False
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_link_local)


def _own_cgroups(root: Path) -> Iterator[Path]:
    """Give this process's cgroup and those around it, up to the root that is mounted."""
    own = _read(Path("/proc/self/cgroup")).rpartition("0::")[2].partition("\n")[0]
    directory = root / own.strip("/")
    yield from (d for d in (directory, *directory.parents) if d == root or root in d.parents)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
