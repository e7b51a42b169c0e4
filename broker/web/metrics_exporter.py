"""Export berth-web's metrics to Prometheus. Some are read only at a scrape, HAProxy's among them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from broker.errors import BerthError
from broker.schema.service_report import SERVICE_STATES
from broker.service.metrics_server import MetricsServer
from broker.web.haproxy_statistics import CLASSES

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from broker.web.access import BrowserAccess
    from broker.web.haproxy import Haproxy
    from broker.web.haproxy_statistics import BrowserTraffic
    from broker.web.portal.live_sessions import LiveSessions

HAPROXY_TIMEOUT_S = 5.0
"""Time for HAProxy's statistics; Prometheus waits for 10 s."""

log = logging.getLogger(__name__)


class _Present(Collector):
    """A collector that reads the present values at each scrape, in a thread of the metrics server."""

    def __init__(self, haproxy: Haproxy, access: BrowserAccess, live: LiveSessions) -> None:
        self._haproxy = haproxy
        self._access = access
        self._live = live
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: to collect, as the registry does without this, is possible in other threads only."""
        return ()

    def collect(self) -> Iterable[Metric]:
        async def present() -> tuple[int, int, Counter[str], int]:
            access = self._access
            return access.grant_count, access.tunnel_count, access.service_states(), self._live.pages

        grants, tunnels, states, pages = asyncio.run_coroutine_threadsafe(present(), self._loop).result(
            HAPROXY_TIMEOUT_S
        )
        yield GaugeMetricFamily("berth_web_grants", "Services that browsers may use now.", value=grants)
        yield GaugeMetricFamily("berth_web_tunnels", "Connections to sessions that are open.", value=tunnels)
        yield GaugeMetricFamily("berth_web_live_pages", "Pages of the portal that are open.", value=pages)
        services = GaugeMetricFamily("berth_web_services", "Services that were opened, by state.", labels=["state"])
        for state in SERVICE_STATES:
            services.add_metric([state], states[state])
        yield services
        reading = asyncio.run_coroutine_threadsafe(self._haproxy.traffic(), self._loop)
        try:
            yield from _traffic(reading.result(HAPROXY_TIMEOUT_S))
        except (BerthError, TimeoutError) as error:  # the other metrics are still exported
            reading.cancel()
            log.warning("traffic not counted error=%s", error)


def _traffic(traffic: BrowserTraffic) -> Iterator[Metric]:
    counts = traffic.counts
    connections = "Connections of browsers that are open."
    yield GaugeMetricFamily("berth_web_connections", connections, value=traffic.connections)
    requests = CounterMetricFamily("berth_web_requests", "Answers to browsers, by class of status.", labels=["code"])
    for each in CLASSES:
        requests.add_metric([each], counts[each])
    yield requests
    carried = CounterMetricFamily(
        "berth_web_bytes", "Bytes between browsers and HAProxy, as seen from HAProxy.", labels=["direction"]
    )
    for direction in ("received", "sent"):
        carried.add_metric([direction], counts[direction])
    yield carried
    yield CounterMetricFamily(
        "berth_web_denied_requests", "Requests that a rule of HAProxy has refused.", counts["denied"]
    )


@contextlib.contextmanager
def publish_metrics(
    address: tuple[str, int] | None, haproxy: Haproxy, access: BrowserAccess, live: LiveSessions
) -> Iterator[None]:
    """Serve `/metrics` at that address from a thread, during the block. Without one, serve nothing.

    What cannot be served is only logged: browsers do not depend on it.
    """
    if address is None:
        yield
        return
    collector = _Present(haproxy, access, live)
    REGISTRY.register(collector)
    try:
        try:
            server = MetricsServer(*address, REGISTRY)
        except OSError as error:
            log.error("metrics are not served at %s port %d: %s", *address, error)
            yield
            return
        try:
            yield
        finally:
            server.stop()
    finally:
        REGISTRY.unregister(collector)
