"""Counters of the controller for Prometheus. Labels come from closed sets: no user, no session, no word of a client
(ADR 48, ADR 99).
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from prometheus_client import Counter, Gauge, Histogram

from broker import __version__

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
