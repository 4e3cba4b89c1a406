"""The limit of open files is raised, and connections are kept within it."""

import logging
import subprocess
import sys

import pytest

from shared.runtime.descriptors import LEAST_CONNECTIONS, fit_connections

PROGRAM = """
import resource
from shared.runtime.descriptors import raise_descriptor_limit
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_soft_limit_is_raised_to_the_hard_one() -> None:
    """A process that starts with the limit of select(2) raises it."""
    limited = ["sh", "-c", 'ulimit -Sn 100; ulimit -Hn 500; exec "$@"', "sh"]
    done = subprocess.run(
        [*limited, sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["500", "500", "500"]


@pytest.mark.parametrize(
    ("wanted", "limit", "reserved", "allowed"),
    [
        (1000, 8192, 100, 1000),
        (1000, 1024, 100, 924),
        (1000, 64, 100, LEAST_CONNECTIONS),
        (4, 64, 100, 4),
        (1000, -1, 100, 1000),
    ],
)
def test_connections_fit_beside_everything_else(
    wanted: int, limit: int, reserved: int, allowed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If the limit cannot be raised far enough, one log line says so and names the limit."""
    assert fit_connections(wanted, limit, reserved) == allowed
    lines = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == (allowed < wanted)
    assert all(f"is {limit}" in line for line in lines)
