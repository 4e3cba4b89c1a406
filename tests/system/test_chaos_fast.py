"""The fast part of the faults of `just chaos`: fewer kills and shorter loads."""

from pathlib import Path

import pytest

from tests.chaos import connections, deaths, disks, engines, hostile, poison
from tests.chaos.rows import Row
from tests.patience import patient


def hold(rows: list[Row]) -> None:
    """Check that every promise held; skip a fault that cannot be made here."""
    skips = [row.measured for row in rows if row.held is None]
    if skips:
        pytest.skip("; ".join(skips))
    assert rows
    assert not [row for row in rows if not row.held]


@pytest.mark.slow
def test_killed_exporter_counts_each_event_once(tmp_path: Path) -> None:
    """Five kills of the exporter under load: no loss, no duplicate, no counter goes back."""
    hold(deaths.exporter_killed(tmp_path, kills=5, with_prometheus=False))


@pytest.mark.slow
def test_both_killed_cost_a_flush_interval(tmp_path: Path) -> None:
    """If node and exporter are killed at once, only what the node had not sent is lost."""
    # Other tests may keep the cores busy.
    hold(deaths.both_killed(tmp_path, kills=1, exchange_seconds=patient(0.5)))


@pytest.mark.slow
def test_killed_engine_is_not_seen(tmp_path: Path) -> None:
    """After each of six kills of an engine the text is the same, with each token counted once."""
    hold(engines.engine_killed(tmp_path, kills=6))


@pytest.mark.slow
def test_killed_llama_server_is_not_seen(tmp_path: Path) -> None:
    """After each of three kills of a llama-server the text is the same, token for token."""
    hold(engines.llama_server_killed(tmp_path, kills=3))


@pytest.mark.slow
def test_removed_socket_is_made_anew(tmp_path: Path) -> None:
    """Without the socket's file a connected node goes on, and a new one connects soon."""
    hold(connections.socket_removed(tmp_path))


@pytest.mark.slow
def test_two_nodes_of_one_name_are_never_mixed(tmp_path: Path) -> None:
    """The second of two live nodes with one id waits, and loses nothing."""
    hold(connections.two_nodes(tmp_path, seconds=1))


@pytest.mark.slow
def test_garbage_hurts_nobody(tmp_path: Path) -> None:
    """Garbage is refused and counted, and nodes are served meanwhile."""
    hold(connections.garbage(tmp_path, messages=50))


@pytest.mark.slow
def test_full_disk_costs_durability_only(tmp_path: Path) -> None:
    """With a full state directory everything is counted, and durability returns afterwards."""
    hold(disks.full(tmp_path, seconds=0))


@pytest.mark.slow
def test_read_only_disk_costs_durability_only(tmp_path: Path) -> None:
    """With a read-only state directory everything is counted, and durability returns afterwards."""
    hold(disks.read_only(tmp_path, seconds=0))


@pytest.mark.slow
def test_poison_is_skipped(tmp_path: Path) -> None:
    """A record that crashed the exporter twice is set aside, and the others are counted."""
    hold(poison.last(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_minutes_end_nothing(tmp_path: Path) -> None:
    """Signals, floods, odd files, bad clients and strangers at once end nothing else."""
    hold(hostile.hostile_hour(tmp_path, seconds=120))
