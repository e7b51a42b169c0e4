"""docs/reference/metrics.md has every metric of controller, gateway and berth-web, and no other."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from broker.controller import metrics as controller_metrics
from broker.controller import metrics_exporter as controller_exporter
from broker.gateway.metrics import COUNTERS, GAUGES, SECONDS
from broker.web import metrics as web_metrics
from broker.web import metrics_exporter as web_exporter
from tests.docs.generate import ROOT

if TYPE_CHECKING:
    from types import ModuleType

_PAGE = (ROOT / "docs/reference/metrics.md").read_text()
_ROW = re.compile(r"^\| `(berth_\w+)` \| (counter|gauge|histogram) \|", re.MULTILINE)


def _declared(module: object) -> set[tuple[str, str]]:
    kinds = {Counter: ("counter", "_total"), Gauge: ("gauge", ""), Histogram: ("histogram", "")}
    return {
        (each.describe()[0].name + suffix, kind)
        for each in vars(module).values()
        for cls, (kind, suffix) in kinds.items()
        if type(each) is cls
    }


def _collected(module: ModuleType) -> set[tuple[str, str]]:
    """The metrics that a module makes at a scrape, by its source."""
    source = inspect.getsource(module)
    found = re.findall(r'(Counter|Gauge)MetricFamily\(\s*"(berth_\w+)"', source)
    return {(name + ("_total" if kind == "Counter" else ""), kind.lower()) for kind, name in found}


def test_page_has_every_metric_and_its_kind() -> None:
    gateway = {
        *((f"berth_gateway_{name}_total", "counter") for name in COUNTERS),
        *((f"berth_gateway_{name}", "gauge") for name in (*GAUGES, "workers", "build_info")),
        *((f"berth_gateway_{name}", "histogram") for name in SECONDS),
    }
    published = gateway.union(
        *(_declared(module) for module in (controller_metrics, web_metrics)),
        *(_collected(module) for module in (controller_exporter, web_exporter)),
    )
    assert set(_ROW.findall(_PAGE)) == published
