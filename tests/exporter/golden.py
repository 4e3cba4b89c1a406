"""The golden exposition: one event of each kind, rendered.

`python -m tests.exporter.golden` rewrites the file; the difference is then reviewed.
"""

import re
from pathlib import Path
from typing import Final

from exporter.metrics.cut import take_cut
from exporter.metrics.nodes import Session
from exporter.metrics.state import State
from exporter.web.exposition import Wanted, render
from tests.builders import every_event

GOLDEN: Final = Path(__file__).with_name("exposition.golden.txt")
_BUILD: Final = re.compile(r'(_build_info\{python=")[^"]*(",version=")[^"]*')


def exposition() -> str:
    """Render a state that has had every event once, without this machine's versions."""
    state = State()
    node = state.node("n1")
    session = Session("s1")
    node.sessions["s1"] = session
    node.up, node.heard_time = True, 1.6e9
    # All but the last event, which unloads the model and removes its gauges.
    state.apply(node, session, every_event()[:-1])
    return _BUILD.sub(r"\1*\2*", render(take_cut(state), Wanted()).body.decode())


if __name__ == "__main__":
    GOLDEN.write_text(exposition())
