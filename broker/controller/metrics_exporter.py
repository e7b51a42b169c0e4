"""Export the controller's metrics to Prometheus. Some are counted only at a scrape."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker.controller import clock
from broker.errors import BerthError
from broker.schema.sessions import SessionState
from broker.service.metrics_server import MetricsServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.registry import Registry

log = logging.getLogger(__name__)


class _Sessions(Collector):
    """A collector that reads the present values at each scrape."""

    def __init__(self, registry: Registry, reconciler: Reconciler) -> None:
        self._registry = registry
        self._reconciler = reconciler

    def collect(self) -> Iterable[Metric]:
        sessions = GaugeMetricFamily("berth_sessions", "Sessions, by state.", labels=["state"])
        try:
            counted = self._registry.count()
        except BerthError as error:  # the other metrics are still exported
            log.warning("sessions not counted error=%s", error.message)
        else:
            for state in set(SessionState) - {SessionState.DELETED}:
                sessions.add_metric([state.value], counted.get(state, 0))
            yield sessions
            idle = GaugeMetricFamily("berth_idle_gpus", "GPUs of ready sessions that have been idle for ten minutes.")
            idle.add_metric([], self._registry.count_idle_gpus())
            yield idle
        since = self._reconciler.observed.stale_since
        yield GaugeMetricFamily(
            "berth_slurm_stale_seconds",
            "Seconds since Slurm stopped answering; 0 while it answers.",
            value=0 if since is None else max(clock.now() - since, 0),
        )


@contextlib.contextmanager
def serve_controller_metrics(host: str, port: int, registry: Registry, reconciler: Reconciler) -> Iterator[None]:
    """Serve `/metrics` at that address from a thread, during the block. OSError if the address cannot be bound."""
    collector = _Sessions(registry, reconciler)
    REGISTRY.register(collector)
    try:
        server = MetricsServer(host, port, REGISTRY)
        log.info("metrics: http://%s:%d/metrics", host, port)
        try:
            yield
        finally:
            server.stop()
    finally:
        REGISTRY.unregister(collector)
