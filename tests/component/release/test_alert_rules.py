"""Prometheus' own promtool: the alert rules are valid, each fires in its case, and none does on a healthy site."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.docs.generate import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RULES = ROOT / "docs/monitoring/berth-alerts.yaml"
HEALTHY = {
    "berth_slurm_stale_seconds": "0x60",
    "berth_reconcile_failures_total": "2x60",
    'berth_launcher_duration_seconds_count{outcome="done"}': "0+5x60",
    'berth_launcher_duration_seconds_count{outcome="crashed"}': "1x60",
    "berth_gateway_turned_away_total": "0+10x60",
    'berth_gateway_forwards_total{result="opened"}': "0+50x60",
    'berth_gateway_forwards_total{result="impostor"}': "0x60",
    "berth_gateway_controller_errors_total": "0+1x60",
    "berth_gateway_unreported": "20x60",
    "berth_web_haproxy_starts_total": "1x60",
    "berth_web_controller_errors_total": "0+1x60",
    'berth_web_refusals_total{reason="refused"}': "0+10x60",
    'berth_web_requests_total{code="5xx"}': "0+10x60",
    'berth_web_requests_total{code="2xx"}': "0+1000x60",
    'berth_http_connections_refused_total{reason="user"}': "0+10x60",
}
"""Values a minute apart: `0+5x60` grows by 5 a minute."""
FAULTS = {
    "BerthSlurmSilent": ("berth_slurm_stale_seconds", "0+60x60"),
    "BerthTicksFail": ("berth_reconcile_failures_total", "0+1x60"),
    "BerthLauncherCallsFail": ('berth_launcher_duration_seconds_count{outcome="crashed"}', "0+1x60"),
    "BerthClientLockedOut": ("berth_gateway_turned_away_total", "0+90x60"),
    "BerthForeignEndpoint": ('berth_gateway_forwards_total{result="impostor"}', "0x30 1x30"),
    "BerthGatewayWithoutController": ("berth_gateway_controller_errors_total", "0+5x60"),
    "BerthConnectionsUnreported": ("berth_gateway_unreported", "0+100x60"),
    "BerthWebProxyRestarts": ("berth_web_haproxy_starts_total", "1x20 3x40"),
    "BerthWebWithoutController": ("berth_web_controller_errors_total", "0+5x60"),
    "BerthWebGuesses": ('berth_web_refusals_total{reason="refused"}', "0+90x60"),
    "BerthWebServicesFail": ('berth_web_requests_total{code="5xx"}', "0+90x60"),
    "BerthApiFlood": ('berth_http_connections_refused_total{reason="user"}', "0+90x60"),
}
"""For each alert, the series that makes it fire."""
SEEN_AT = "55m"


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts(directory: Path, series: dict[str, str], firing: set[str]) -> None:
    """Check that with these series exactly these alerts fire."""
    rules: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]

    def shown(rule: dict[str, Any]) -> dict[str, Any]:
        labels = yaml.safe_load("{" + fired.partition("{")[2].replace("=", ": ") if "{" in fired else "{}")
        return {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"]}

    fired = next((FAULTS[name][0] for name in firing), "")
    tests = [
        {
            "eval_time": SEEN_AT,
            "alertname": rule["alert"],
            "exp_alerts": [shown(rule)] if rule["alert"] in firing else [],
        }
        for rule in rules
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    file = directory / "test.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "1m",
                "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": tests}],
            }
        )
    )
    promtool("test", "rules", str(file))


def test_rules_are_valid() -> None:
    assert f"{len(FAULTS)} rules found" in promtool("check", "rules", str(RULES))


def test_no_alert_fires_on_a_healthy_site(tmp_path: Path) -> None:
    alerts(tmp_path, HEALTHY, set())


@pytest.mark.parametrize("name", FAULTS)
def test_alert_fires_in_its_case_alone(tmp_path: Path, name: str) -> None:
    series, values = FAULTS[name]
    alerts(tmp_path, HEALTHY | {series: values}, {name})
