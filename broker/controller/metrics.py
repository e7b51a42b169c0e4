"""Counters of the controller for Prometheus.

Label values come from closed sets: no user, no session, no text from a client (ADR 48, ADR 99).
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from prometheus_client import Counter, Gauge, Histogram

from broker import __version__

log = logging.getLogger(__name__)

REQUESTS = Counter("berth_http_requests", "Requests to the API that were answered.", ["method", "path", "status"])
REQUEST_SECONDS = Histogram(
    "berth_http_request_duration_seconds",
    "Durations of requests to the API, including intended waits.",
    ["method", "path"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
CONNECTIONS_REFUSED = Counter(
    "berth_http_connections_refused",
    "Refused connections to the API, by reason: no account, a user's limit, the total limit, unknown accounts.",
    ["reason"],
)
RECONCILE_SECONDS = Histogram(
    "berth_reconcile_duration_seconds",
    "Durations of ticks of the reconcile loop.",
    buckets=(0.02, 0.1, 0.5, 2, 10, 60),
)
RECONCILE_FAILURES = Counter(
    "berth_reconcile_failures", "Ticks of the reconcile loop that failed with an internal error."
)
LAUNCHER_SECONDS = Histogram(
    "berth_launcher_duration_seconds",
    "Durations of launcher calls, by outcome.",
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
"""Outcomes of launcher calls that have their own series. A user's process may report any other word."""
OTHER = "other"
BUILD = Gauge("berth_build_info", "The version of the running program.", ["version"])
BUILD.labels(__version__).set(1)


def observe_request(method: str, path: str, status: int, seconds: float) -> None:
    """Count a request. `method` and `path` come from routes or are OTHER; status 0 is a request without an answer."""
    REQUESTS.labels(method, path, status if status in _STATUSES else OTHER).inc()
    REQUEST_SECONDS.labels(method, path).observe(seconds)


def observe_launcher(verb: str, outcome: str, seconds: float) -> None:
    """Count a verb of the launcher; `verb` is a method's own word."""
    LAUNCHER_SECONDS.labels(verb, outcome if outcome in LAUNCHER_OUTCOMES else OTHER).observe(seconds)


_STATUSES = frozenset({0, *(int(each) for each in HTTPStatus)})
