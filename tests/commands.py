"""Runs the project's commands to their end inside the test's process.

For tests of output and refusals: a separate process would import the node for over a second.
"""

import contextlib
import importlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m PROGRAM ARGUMENTS` here; return its output and exit code."""
    main = importlib.import_module(f"{program}.__main__").main
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patched,
        _kept_logging(),
    ):
        patched.setattr(sys, "argv", [program, *arguments])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess([program, *arguments], code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _kept_logging() -> Iterator[None]:
    """Restore what a command configures for its process."""
    root, hypercorn = logging.getLogger(), logging.getLogger("hypercorn.error")
    handlers, levels = root.handlers[:], (root.level, hypercorn.level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        hypercorn.setLevel(levels[1])
