"""The metrics of controller and gateway on the login node, as they are installed and as Prometheus would read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site

CONTROLLER, GATEWAY = 9417, 9418


def scraped(site: Site, port: int) -> dict[str, float]:
    """Return the samples by name and labels, as they are written."""
    text = site.lab.sh(f"curl -sf -m 10 http://127.0.0.1:{port}/metrics")
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_session_and_a_connection_to_it_are_counted(site: Site, alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(name, "true")
    metrics = scraped(site, CONTROLLER)
    assert metrics["berth_sessions state=ready"] >= 1
    assert metrics["berth_slurm_stale_seconds"] == 0
    assert metrics["berth_reconcile_duration_seconds_count"] > 0
    assert metrics["berth_launcher_duration_seconds_count outcome=done verb=submit"] >= 1
    assert metrics["berth_http_requests_total method=POST path=/v1/sessions/{name}/start status=202"] >= 1
    assert not any(name in key.split() for key in metrics)
    opened = "berth_gateway_forwards_total result=opened"
    wait_for(lambda: scraped(site, GATEWAY).get(opened, 0) >= 1, what="the gateway to have counted it")
    metrics = scraped(site, GATEWAY)
    assert metrics["berth_gateway_logins_total result=accepted"] >= 1
    assert metrics["berth_gateway_controller_seconds_count question=resolve"] >= 1
