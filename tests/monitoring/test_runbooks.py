"""Runbooks: what can be run on a host can be run in a cluster as well."""

import re
from pathlib import Path

import pytest

from tests.monitoring.sources import RUNBOOKS


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_commands_have_a_form_for_each_place(page: Path) -> None:
    """Where a command reads a log or asks a port, there is one for Kubernetes as well."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if re.search(r"^(curl|journalctl|df) ", block, re.MULTILINE):
            assert "# Kubernetes\nkubectl " in block
        if "journalctl -u" in block:
            assert "logs POD -c node" in block
            assert "logs POD -c exporter" in block
        if "localhost:9090" in block:
            assert "pods/POD:9090/proxy/" in block
