"""Numbers of the controller for Prometheus. Labels come from closed sets: no user, no session, no word of a client
(ADR 48, ADR 99).
"""

from __future__ import annotations

import contextlib
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker import __version__
from broker.errors import BerthError
from broker.metrics_server import MetricsServer
from broker.schema import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from broker.reconcile import Reconciler
    from broker.registry import Registry

log = logging.getLogger(__name__)

REQUESTS = Counter("berth_http_requests", "Requests to the API that were answered.", ["method", "path", "status"])
REQUEST_SECONDS = Histogram(
    "berth_http_request_seconds",
    "How long they took, with what they waited for on purpose.",
    ["method", "path"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
CONNECTIONS_REFUSED = Counter(
    "berth_http_connections_refused",
    "Connections to the API that were closed at once: no account, too many of one user, no room, too many unknown.",
    ["reason"],
)
RECONCILE_SECONDS = Histogram(
    "berth_reconcile_seconds",
    "How long one look at Slurm and all sessions took.",
    buckets=(0.02, 0.1, 0.5, 2, 10, 60),
)
RECONCILE_FAILURES = Counter("berth_reconcile_failures", "Looks that ended with an error of Berth's own.")
LAUNCHER_SECONDS = Histogram(
    "berth_launcher_seconds",
    "How long the launcher's verbs took, by how they ended.",
    ["verb", "outcome"],
    buckets=(0.02, 0.1, 0.5, 2, 10, 60, 600),
)
LAUNCHER_OUTCOMES = frozenset(
    {
        *(
            "done",
            "cancelled",
            "invalid",
            "refused",
            "missing",
            "files",
            "busy",
            "ended",
            "space",
            "conflict",
            "host-key",
        ),
        *("unclear", "crashed", "timed-out", "gone"),
    }
)
"""The ends of a verb that have a series of their own; the word comes from a process of a user."""
OTHER = "other"
BUILD = Gauge("berth_build_info", "The program that runs.", ["version"])
BUILD.labels(__version__).set(1)


def observe_request(method: str, path: str, status: int, seconds: float) -> None:
    """Count a request. `method` and `path` come from routes or are OTHER; status 0 is a request without an answer."""
    REQUESTS.labels(method, path, status if status in _STATUSES else OTHER).inc()
    REQUEST_SECONDS.labels(method, path).observe(seconds)


def observe_launcher(verb: str, outcome: str, seconds: float) -> None:
    """Count a verb of the launcher; `verb` is a method's own word."""
    LAUNCHER_SECONDS.labels(verb, outcome if outcome in LAUNCHER_OUTCOMES else OTHER).observe(seconds)


_STATUSES = frozenset({0, *(int(each) for each in HTTPStatus)})


class _Sessions(Collector):
    """Asks for what is now when Prometheus does."""

    def __init__(self, registry: Registry, reconciler: Reconciler) -> None:
        self._registry = registry
        self._reconciler = reconciler

    def collect(self) -> Iterable[Metric]:
        sessions = GaugeMetricFamily("berth_sessions", "Sessions, by state.", labels=["state"])
        try:
            counted = self._registry.count()
        except BerthError as error:  # the rest can be told all the same
            log.warning("sessions are not counted: %s", error.message)
        else:
            for state in set(SessionState) - {SessionState.DELETED}:
                sessions.add_metric([state.value], counted.get(state, 0))
            yield sessions
            idle = GaugeMetricFamily("berth_idle_gpus", "GPUs of ready sessions that have had no work for ten minutes.")
            idle.add_metric([], self._registry.count_idle_gpus())
            yield idle
        since = self._reconciler.stale_since
        yield GaugeMetricFamily(
            "berth_slurm_stale_seconds",
            "For how long Slurm has not answered; 0 while it does.",
            value=0 if since is None else max(time.time() - since, 0),
        )


@contextlib.contextmanager
def served(host: str, port: int, registry: Registry, reconciler: Reconciler) -> Iterator[None]:
    """Within it `/metrics` is served there, by a thread. OSError if that cannot be."""
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
