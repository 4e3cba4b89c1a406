"""An operator's collector in a real exporter, as docs/collectors.md describes it."""

import os
import re
from pathlib import Path

import httpx
import pytest

from tests import commands
from tests.processes import Pair, scrape, start, value, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "collectors.md"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with the collector of the page."""
    (found,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "disk_health.py").write_text(found)
    (tmp_path / "hasty.py").write_text(
        "class Hasty:\n    def collect(self):\n        raise OSError('no such device')\n"
    )
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def test_collector_of_the_page_is_exposed(pair: Pair, environment: dict[str, str]) -> None:
    """The page's collector is scraped beside our metrics; one that raises is counted."""
    names = "--collectors=disk_health:DiskHealth,hasty:Hasty"
    command = ["exporter", "--metrics-port=0", *pair.flags, names]
    with start(command, pair.directory, environment=environment) as exporter:

        def shown(pattern: str) -> bool:
            text = httpx.get(f"{exporter.url}/metrics").text
            return re.search(rf"(?m)^{pattern}", text) is not None

        # On a busy machine a collector may miss the time of one scrape.
        wait_for(lambda: shown(r"models_disk_free_bytes \d"))
        wait_for(lambda: shown(r"process_resident_memory_bytes \d"))
        assert shown("distributed_llm_exporter_build_info{")

        def failures() -> float | None:
            name = "exporter_collector_errors_total"
            return value(scrape(exporter.url), name, collector="hasty:Hasty")

        wait_for(failures)
        told = exporter.log.read_text()
    assert told.count("collector hasty:Hasty is left out of the scrape") == 1
    assert "no such device" in told


def test_collector_that_is_missing_is_one_line(pair: Pair) -> None:
    """An exporter does not start with a collector that cannot be loaded; `check` finds it too."""
    flag = "--collectors=nowhere:Thing"
    done = commands.run("exporter", "--metrics-port=0", *pair.flags, flag)
    assert done.returncode == 1
    assert "nowhere:Thing cannot be loaded: No module named 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
    checked = commands.run("exporter", "check", *pair.flags, flag)
    assert checked.returncode == 1
    assert "failed collectors: " in checked.stdout
