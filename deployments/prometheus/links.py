"""Write the addresses of runbooks and dashboard into the alerts and the expectations of tests."""

import re
from pathlib import Path
from typing import Final

from deployments.addresses import Addresses

HERE: Final = Path(__file__).parent
ALERTS: Final = HERE / "rules" / "alerts.yaml"

_ALERT: Final = re.compile(r"^(?= +- alert: )", re.MULTILINE)
_NAME: Final = re.compile(r" +- alert: (\w+)")
_ANNOTATIONS: Final = re.compile(
    r"^( +)annotations:\n(?: +(?:runbook|dashboard)_url: .*\n)*", re.MULTILINE
)
_EXPECTED: Final = re.compile(r"(runbook_url: )\S*?(docs/runbooks/)|(dashboard_url: )\S+?(/d/)")
_VARIABLES: Final = {"node_id": "node", "model_id": "model"}
"""The dashboard variable that each label sets."""


def link_alerts(text: str, addresses: Addresses) -> str:
    """Return the text of a rule file with the links of each alert."""
    head, *blocks = _ALERT.split(text)
    return head + "".join(_link(block, addresses) for block in blocks)


def link_expectations(text: str, addresses: Addresses) -> str:
    """Return the text of a promtool test with the configured base addresses in its links."""

    def root(found: re.Match[str]) -> str:
        if found[1]:
            return found[1] + f"{addresses.repository}/{found[2]}".removeprefix("/")
        return f"{found[3]}{addresses.grafana}{found[4]}"

    return _EXPECTED.sub(root, text)


def _link(block: str, addresses: Addresses) -> str:
    name = _NAME.match(block)
    assert name, block
    known = [
        f"var-{variable}={{{{ $labels.{label} | urlquery }}}}"
        for label, variable in _VARIABLES.items()
        if f"$labels.{label}" in _ANNOTATIONS.sub("", block, count=1)
    ]
    dashboard = addresses.dashboard + ("?" + "&".join(known) if known else "")

    def lines(found: re.Match[str]) -> str:
        indent = found[1] + "  "
        return (
            f"{found[1]}annotations:\n"
            f"{indent}runbook_url: {addresses.runbook(name[1])}\n"
            f"{indent}dashboard_url: {dashboard}\n"
        )

    return _ANNOTATIONS.sub(lines, block, count=1)
