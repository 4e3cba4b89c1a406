"""Runs a node whose engine is a process that emits tokens at a given rate and takes no time.

What remains is the path of a token from the engine's pipe to the connection. Arguments: the
node's, then tokens per second.
"""

import sys
from functools import partial
from typing import Any

import node.lanes
from node.__main__ import main
from node.engine.ctransformers.process import open_child
from tests.bench import emitting_engine

if __name__ == "__main__":
    lanes: Any = node.lanes
    lanes.open_child = partial(open_child, (emitting_engine.__file__, sys.argv.pop()))
    main()
