"""Counters of berth-web for Prometheus.

Label values come from closed sets: no user, no session, no text from a browser (ADR 48).
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from broker import __version__

VISITS = Counter("berth_web_visits", "Services that browsers were let into.")
REFUSALS = Counter("berth_web_refusals", "Requests that berth-web itself has refused, by reason.", ["reason"])
REVOCATION_SECONDS = Histogram(
    "berth_web_revocation_duration_seconds",
    "Durations from the controller's message that visits have ended until their connections were closed.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
TUNNEL_SECONDS = Histogram(
    "berth_web_tunnel_connect_duration_seconds",
    "Durations of connecting to sessions' sshd, by outcome.",
    ["outcome"],
    buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
CONTROLLER_ERRORS = Counter("berth_web_controller_errors", "Calls that the controller did not answer.")
HAPROXY_STARTS = Counter("berth_web_haproxy_starts", "Starts of HAProxy: more than one are restarts after failures.")
BUILD = Gauge("berth_web_build_info", "The version of the running program.", ["version"])
BUILD.labels(__version__).set(1)
