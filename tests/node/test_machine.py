"""Cores and memory are those of the cgroup, not of the host."""

import itertools
import os
from pathlib import Path

import psutil
import pytest

from node import machine

AFFINITY = len(os.sched_getaffinity(0))


def limit(directory: Path, **limits: str) -> Path:
    """Write a cgroup's files, for instance `cpu_max` as `cpu.max`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in limits.items():
        (directory / name.replace("_", ".")).write_text(text + "\n")
    return directory


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000", 0.5),
        ("150000 200000", 0.75),
        ("max 100000", float(AFFINITY)),
        ("100000000 100000", float(AFFINITY)),
        ("nonsense", float(AFFINITY)),
        ("", float(AFFINITY)),
    ],
)
def test_cores_are_cut_by_the_quota(tmp_path: Path, quota: str, cores: float) -> None:
    """A quota gives fractions of cores; without one the affinity mask counts."""
    assert machine.usable_cores(limit(tmp_path, cpu_max=quota)) == cores


def test_cores_without_cgroups_are_those_of_the_affinity_mask(tmp_path: Path) -> None:
    """Without cgroups the affinity mask counts."""
    assert machine.usable_cores(tmp_path / "none") == AFFINITY


def test_affinity_mask_cuts_cores(tmp_path: Path) -> None:
    """Cores outside the affinity mask do not count."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("maximum", "limited"),
    [("1048576", 2**20), ("max", None), (str(2**62), None), ("nonsense", None), ("", None)],
)
def test_memory_is_cut_by_the_limit(tmp_path: Path, maximum: str, limited: int | None) -> None:
    """A limit below the host's memory counts; others do not."""
    usable = machine.usable_memory_bytes(limit(tmp_path, memory_max=maximum))
    assert usable == (limited or psutil.virtual_memory().total)


def test_tightest_limit_on_the_way_up_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tightest limit of the parent cgroups counts, and no limit of a sibling."""
    inner = limit(tmp_path / "pod" / "box", cpu_max="max 100000", memory_max="8000")
    limit(tmp_path / "pod", cpu_max="25000 100000", memory_max="9000")
    limit(tmp_path / "neighbour", cpu_max="1000 100000", memory_max="1")
    limit(tmp_path.parent, cpu_max="1000 100000", memory_max="1")
    monkeypatch.setattr(machine, "_own_cgroups", lambda root: [inner, inner.parent, root])
    assert machine.usable_cores(tmp_path) == 0.25
    assert machine.usable_memory_bytes(tmp_path) == 8000


def test_own_cgroups_end_at_the_root(tmp_path: Path) -> None:
    """The cgroups of a process end at the mount point."""
    way = list(machine._own_cgroups(tmp_path))
    assert way[-1] == tmp_path
    assert all(inner.parent == outer for inner, outer in itertools.pairwise(way))


@pytest.mark.parametrize(("cores", "threads"), [(0.5, 1), (1, 1), (1.9, 1), (2, 1), (4, 3), (8, 7)])
def test_engine_leaves_a_core_free(cores: float, threads: int) -> None:
    """One core is left free, because the engine's threads spin; there is at least one thread."""
    assert machine.engine_threads(cores) == threads


def test_free_memory_is_what_the_limit_leaves(tmp_path: Path) -> None:
    """Free memory is the limit minus the use, except for reclaimable cached files."""
    limit(tmp_path, memory_max=str(2**20), memory_current=str(2**19))
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 1024\nfile 9\n")
    assert machine.available_memory_bytes(tmp_path) == 2**19 + 1024
    limit(tmp_path, memory_current=str(2**21))
    assert machine.available_memory_bytes(tmp_path) == 0


def test_free_memory_without_a_limit_is_the_hosts(tmp_path: Path) -> None:
    """Without a limit free memory is the host's."""
    limit(tmp_path, memory_max="max", memory_current=str(2**19))
    available = psutil.virtual_memory().available
    assert machine.available_memory_bytes(tmp_path) == pytest.approx(available, rel=0.2)
