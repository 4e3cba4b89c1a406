"""The rules as a whole: external labels survive, and slow windows are evaluated slowly."""

import re
from typing import Any

import pytest
import yaml

from tests.monitoring.sources import RULES, rules

SLOW_HOURS = 6
HOURS = {"h": 1, "d": 24}
GROUPS = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]


@pytest.mark.parametrize(
    "rule", list(rules()), ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_rule_keeps_external_labels(rule: dict[str, Any]) -> None:
    """Whatever a rule groups or matches by, `cluster`, `namespace` and `job` are among it."""
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
        assert {"cluster", "namespace", "job"} <= set(labels.split(", ")), labels


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_slow_windows_have_a_group_of_their_own(group: dict[str, Any]) -> None:
    """Ratios over six hours and more are in groups with a longer interval, and only they are."""
    windows = [
        int(number) * HOURS[unit]
        for rule in group["rules"]
        for number, unit in re.findall(r":ratio_rate(\d+)([hd])$", rule.get("record", ""))
    ]
    is_slow = group.get("interval") == "2m"
    assert all((hours >= SLOW_HOURS) == is_slow for hours in windows)
