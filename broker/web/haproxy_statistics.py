"""HAProxy's statistics of one process, and their sums over processes that come and go (management.txt, section 9.1)."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import NamedTuple

from broker.web.master_socket import HaproxyCommandError

SERVER_STATISTICS = ["show stat services 4 -1"]
"""The command for the servers of grants."""
BROWSER_STATISTICS = ["show stat browsers 1 -1"]
"""The command for the frontend."""
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of statuses (RFC 9110, section 15)."""


class ServerActivity(NamedTuple):
    """The requests and WebSockets of one server, over all of HAProxy's processes."""

    current: int
    total: int


class BrowserTraffic(NamedTuple):
    """The traffic between browsers and HAProxy."""

    connections: int
    """Those that are open now."""
    counts: Counter[str]
    """Answers by the class of their status, bytes as `received` and `sent`, and requests that a rule `denied`."""


def read_activity(output: str) -> dict[str, ServerActivity]:
    """Return the activity of each server by its name. HaproxyCommandError if the statistics are not valid."""
    try:
        return {
            row["svname"]: ServerActivity(int(row["scur"]), int(row["stot"])) for row in _rows(output) if row["stot"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise HaproxyCommandError("HAProxy's statistics are not valid") from error


def read_traffic(output: str) -> BrowserTraffic:
    """Return the traffic of one process. HaproxyCommandError if the statistics are not valid."""
    counts: Counter[str] = Counter()
    connections = 0
    try:
        for row in _rows(output):
            if row["svname"] == "FRONTEND":
                connections = int(row["scur"])
                counts["received"], counts["sent"] = int(row["bin"]), int(row["bout"])
                counts["denied"] = int(row["dreq"])  # also by rules of a backend
                counts.update({each: int(row[f"hrsp_{each}"]) for each in CLASSES})
    except (KeyError, TypeError, ValueError) as error:
        raise HaproxyCommandError("HAProxy's statistics are not valid") from error
    return BrowserTraffic(connections, counts)


def _rows(output: str) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO(output.lstrip().removeprefix("# ")))


class TrafficTotals:
    """The sums over all processes. Those of a process that has ended are kept as they were seen last."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._present: dict[int, Counter[str]] = {}
        """The last counts by the process id."""

    def add(self, traffic: dict[int, BrowserTraffic]) -> BrowserTraffic:
        """Take over the statistics of the present processes, by their ids, and return the sums."""
        for worker in self._present.keys() - traffic.keys():
            self._ended.update(self._present[worker])
        self._present = {worker: each.counts for worker, each in traffic.items()}
        total = Counter(self._ended)
        for each in traffic.values():
            total.update(each.counts)
        return BrowserTraffic(sum(each.connections for each in traffic.values()), total)
