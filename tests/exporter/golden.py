"""The exposition of one event of each kind, as a file to compare with.

`python -m tests.exporter.golden` writes it anew; the difference is then there to read in review.
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
    """Render a state that had every event once, with this machine's versions taken out."""
    state = State()
    node = state.node("n1")
    session = Session("s1")
    node.sessions["s1"] = session
    node.up, node.heard_time = True, 1.6e9
    # All but the last, with which the model would leave and take its gauges along.
    state.apply(node, session, every_event()[:-1])
    return _BUILD.sub(r"\1*\2*", render(take_cut(state), Wanted()).body.decode())


if __name__ == "__main__":
    GOLDEN.write_text(exposition())
