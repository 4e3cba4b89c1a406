"""Makes the named faults, by default all of them, and prints which promises held."""

import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.chaos import (
    clocks,
    clusters,
    company,
    connections,
    damage,
    deaths,
    disks,
    engines,
    floods,
    hostile,
    meshes,
    pauses,
    pipelines,
    poison,
    rotations,
    serving,
)
from tests.chaos.rows import Row, print_header, print_rows

FAULTS: Final[dict[str, Callable[[Path], list[Row]]]] = {
    "exporter-killed": deaths.exporter_killed,
    "exporter-ended": rotations.ended_cleanly,
    "exporter-rotating": rotations.killed_rotating,
    "node-killed": deaths.node_killed,
    "engine-killed": engines.engine_killed,
    "llama-server-killed": engines.llama_server_killed,
    "llama-server-killed-together": company.killed_together,
    "peers-killed": clusters.peers_killed,
    "both-killed": deaths.both_killed,
    "exporter-stopped": pauses.exporter_stopped,
    "exporter-away": serving.exporter_away,
    "socket-removed": connections.socket_removed,
    "two-exporters": connections.two_exporters,
    "two-nodes": connections.two_nodes,
    "garbage": connections.garbage,
    "disk-full": disks.full,
    "disk-full-at-start": disks.full_at_start,
    "disk-read-only": disks.read_only,
    "disk-read-only-start": disks.read_only_at_start,
    "disk-hanging": disks.hanging,
    "state-deleted": disks.deleted,
    "journal-damaged": damage.journal_damaged,
    "journal-cut-live": damage.journal_cut_under_load,
    "poison-last": poison.last,
    "poison-inside": poison.inside,
    "oversize": floods.oversize,
    "cardinality-bomb": floods.cardinality_bomb,
    "clock-set-back": clocks.clock_set_back,
    "hostile-hour": hostile.hostile_hour,
    "pipeline": pipelines.worker_lost,
    "mesh-joined": meshes.joined,
    "mesh-killed": meshes.killed,
    "mesh-frozen": meshes.frozen,
    "mesh-left": meshes.left,
    "mesh-parted": meshes.parted,
}


def main(names: Sequence[str]) -> int:
    """Make faults by name; return 1 if a promise was broken, 2 if a name is unknown."""
    if unknown := [name for name in names if name not in FAULTS]:
        known = ", ".join(FAULTS)
        sys.stderr.write(f"chaos: no fault {', '.join(unknown)}; there are: {known}\n")
        return 2
    # As with Ctrl-C: everything that was started or mounted is cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print_header()
    broken = 0
    for name in names or FAULTS:
        rows = _make(FAULTS[name])
        print_rows(name, rows)
        broken += sum(row.held is False for row in rows)
    print(f"\n{broken or 'no'} promise{'' if broken == 1 else 's'} broken")
    return 1 if broken else 0


def _make(fault: Callable[[Path], list[Row]]) -> list[Row]:
    """Make one fault in a directory of its own; a fault that fails itself proves nothing."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        try:
            return fault(Path(directory))
        except Exception as error:  # noqa: BLE001 - the other faults go on after any failure
            traceback.print_exc()
            return [Row("comes to its end", f"{type(error).__name__}: {error}"[:300], held=False)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
