"""The alert rules and the dashboard of docs/monitoring use metrics that exist, and the pages show the same rules."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import yaml

from tests.docs.generate import ROOT

MONITORING = ROOT / "docs/monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "berth-alerts.yaml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = json.loads((MONITORING / "berth-dashboard.json").read_text())["panels"]
_KNOWN = set(re.findall(r"^\| `(berth_\w+)` \|", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
_ROW = re.compile(r"^\| `(.*berth_.+?)` \| (.+?) \|$", re.MULTILINE)


def _metrics(query: str) -> set[str]:
    """Return the metrics that a query uses, without the suffixes of a histogram's series."""
    found = re.findall(r"\bberth_\w+", re.sub(r"\{__name__=~[^}]*\}", "", query))
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def test_rules_are_those_of_the_page() -> None:
    page = (ROOT / "docs/howto/operate.md").read_text()
    table = page[page.index("| expression | meaning |") :].partition("\n\n")[0]
    shown = [(row[0].replace("\\|", "|"), row[1].replace("`", "")) for row in _ROW.findall(table)]
    assert [(rule["expr"], rule["annotations"]["summary"]) for rule in RULES] == shown


def test_rules_have_names_of_their_own_and_a_severity() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 0
    assert {rule["labels"]["severity"] for rule in RULES} <= {"critical", "warning"}


def test_every_metric_exists() -> None:
    queries = [rule["expr"] for rule in RULES] + [panel["targets"][0]["expr"] for panel in PANELS]
    assert set().union(*map(_metrics, queries)) <= _KNOWN


def test_panels_do_not_overlap() -> None:
    def apart(one: dict[str, int], other: dict[str, int]) -> bool:
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        return beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]

    assert all(apart(one["gridPos"], other["gridPos"]) for one, other in combinations(PANELS, 2))
    assert len({panel["title"] for panel in PANELS}) == len({panel["id"] for panel in PANELS}) == len(PANELS)
