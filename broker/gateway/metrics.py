"""The gateway's metrics for Prometheus: workers write files, the master adds them up and serves the sums.

Each worker writes its own file, `<pid>.json` in one directory, every second. When a worker has ended, its counters are
added to `ended.json`. So counters never decrease, over any number of reloads, and files do not accumulate (ADR 48).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from broker import __version__
from broker.gateway.counters import BUCKETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from broker.gateway.counters import Counters

WRITE_INTERVAL_S = 1.0
"""Seconds between two writes of a worker's numbers."""
ENDED_FILE = "ended.json"

COUNTERS = {
    "logins": ("Clients that tried to log in, by result.", "result"),
    "turned_away": ("Clients that were refused because of failures from their address.", ""),
    "forwards": ("Requested connections to sessions, by result.", "result"),
    "bytes": ("Bytes between clients and sessions, as seen from the client.", "direction"),
    "controller_errors": ("Requests that the controller did not answer.", ""),
    "unrecorded": ("Connections without a record at the controller, because too many records waited.", ""),
}
GAUGES = {
    "connections": "Clients that are connected, with those that log in.",
    "forwards": "Connections to sessions that are open.",
    "unreported": "Records of connections that the controller has not taken yet.",
}
SECONDS = {"controller_seconds": ("Durations of the controller's answers.", "question")}

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def publish_counters(counts: Counters, directory: Path) -> AsyncIterator[None]:
    """Write a worker's numbers every second during the block, and once more at its end."""
    path = directory / f"{os.getpid()}.json"

    async def keep_writing() -> None:
        while True:
            _write(path, counts.snapshot())
            await asyncio.sleep(WRITE_INTERVAL_S)

    writing = asyncio.create_task(keep_writing())
    try:
        yield
    finally:
        writing.cancel()
        _write(path, counts.snapshot())


class MetricsTotals:
    """The sums over all workers, read by the server's thread, written by the master's."""

    def __init__(self, directory: Path, *, fresh: bool) -> None:
        """`fresh`: start from zero."""
        self._directory = directory
        self._lock = threading.Lock()
        for each in (directory.parent, directory):  # the directory of the host key, which any process may create first
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in directory.glob("*.json") if fresh else ():
            path.unlink()

    def add_ended_worker(self, pid: int) -> None:
        """Add the counters of the ended worker to the totals."""
        path, total = self._directory / f"{pid}.json", self._directory / ENDED_FILE
        with self._lock:
            numbers = _read(path)
            if numbers is not None:
                _write(total, _sum([_read(total), numbers | {"now": {}}]))
                path.unlink()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415

        with self._lock:
            files = list(self._directory.glob("*.json"))
            numbers = _sum([_read(path) for path in files])
        totals, now = numbers["totals"], numbers["now"]
        for name, (help_text, label) in COUNTERS.items():
            family = CounterMetricFamily(f"berth_gateway_{name}", help_text, labels=[label] if label else [])
            for key, value in sorted(totals.items()):
                if (parts := key.split(" "))[0] == name:
                    family.add_metric(parts[1:2] if label else [], value)
            yield family
        for name, help_text in GAUGES.items():
            yield GaugeMetricFamily(f"berth_gateway_{name}", help_text, value=now.get(name, 0))
        for name, (help_text, label) in SECONDS.items():
            histogram = HistogramMetricFamily(f"berth_gateway_{name}", help_text, labels=[label])
            for key, seconds in sorted(numbers["seconds"].items()):
                word = key.partition(" ")[2]
                histogram.add_metric([word], _buckets(totals, key), seconds)
            yield histogram
        workers = sum(path.name != ENDED_FILE for path in files)
        yield GaugeMetricFamily("berth_gateway_workers", "Worker processes, with those that finish.", value=workers)
        info = GaugeMetricFamily("berth_gateway_build_info", "The program that the master runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info


def serve_metrics(totals: MetricsTotals, host: str, port: int) -> None:
    """Serve `/metrics` there in a thread, until this process ends. What cannot be served is only logged: people's ssh
    does not depend on it.
    """
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - most gateways serve none

    from broker.service.metrics_server import MetricsServer  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(totals)
    try:
        MetricsServer(host, port, registry)
    except OSError as error:
        _log.error("metrics are not served at %s port %d: %s", host, port, error)


def _buckets(totals: Counter[str], key: str) -> list[tuple[str, float]]:
    """Each bound, and how many took no longer, as Prometheus wants a histogram."""
    bounds, reached = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"], 0.0
    found = []
    for bound in bounds:
        reached += totals[f"{key} {bound}"]
        found.append((bound, reached))
    return found


def _sum(several: list[dict[str, Any] | None]) -> dict[str, Counter[str]]:
    total: dict[str, Counter[str]] = {kind: Counter() for kind in ("totals", "seconds", "now")}
    for numbers in several:
        for kind, counter in total.items():
            counter.update((numbers or {}).get(kind, {}))
    return total


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _write(path: Path, numbers: object) -> None:
    """Write the file atomically. A failed write has no effect on connections."""
    draft = path.with_suffix(".draft")
    try:
        draft.write_text(json.dumps(numbers), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        _log.debug("metrics are not written: %s", error)
