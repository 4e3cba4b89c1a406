"""The timeouts of tests follow the speed of the machine."""

import pytest

from tests import patience
from tests.patience import Slowness
from tests.processes import free_port


class Machine:
    """A clock that only work and sleep move, by more on a slow machine."""

    def __init__(self, slowness: float) -> None:
        self.now = 0.0
        self._slowness = slowness

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self) -> None:
        self.now += patience._WORK_SECONDS * self._slowness


@pytest.mark.parametrize(("slowness", "factor"), [(0.5, 1), (1, 1), (3, 3), (1000, 10)])
def test_factor_is_the_slowness_within_bounds(slowness: float, factor: float) -> None:
    """A fast machine does not shorten timeouts, and a stalled one extends them only so far."""
    machine = Machine(slowness)
    measuring = Slowness(lambda: machine.now, machine.sleep, machine.work)
    for _ in range(2 * patience._REMEMBERED):
        measuring.measure()
    assert measuring.factor() == pytest.approx(factor)


def test_free_ports_differ() -> None:
    """A reserved port is never returned again."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
