"""`web-requests`, `web-first-byte` and `web-messages`: berth-web against bare nginx, in front of the same tunnel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.bench import web_ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.web_client import CONNECTIONS
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.ground import Ground
    from tests.bench.web_ground import WebGround

REQUESTS, FIRST_BYTE, MESSAGES = "web-requests", "web-first-byte", "web-messages"
SECONDS = 3
LONE_REQUESTS = 300
_RATE = re.compile(r"Requests/sec: *([0-9.]+)")
_FAULTS = re.compile(r"(Socket errors:.*|Non-2xx or 3xx responses:.*)")


def measure_requests(ground: Ground, runs: int) -> Result:
    """Answers of 1 KiB a second, to CONNECTIONS clients that keep their connections."""
    rates = _measure(ground, runs, REQUESTS, lambda web, port: wrk(web.run, port, web.headers(web_ground.PAGE)))
    return result(REQUESTS, *rates, "1/s", Target(0.8, more_is_better=True))


def measure_first_byte(ground: Ground, runs: int) -> Result:
    """The median time until the first byte of an answer, while nothing else is asked."""
    times = _measure(
        ground,
        runs,
        FIRST_BYTE,
        lambda web, port: web.client("first-byte", web_ground.PAGE, port, str(LONE_REQUESTS)),
    )
    return result(FIRST_BYTE, *times, "ms", Target(1.2))


def measure_messages(ground: Ground, runs: int) -> Result:
    """WebSocket messages a second, each sent when the last one has come back."""
    rates = _measure(
        ground, runs, MESSAGES, lambda web, port: web.client("messages", web_ground.ECHO, port, str(SECONDS))
    )
    return result(MESSAGES, *rates, "1/s", Target(0.8, more_is_better=True))


def wrk(run: Callable[..., str], port: int, headers: Sequence[str]) -> float:
    """Requests a second; UnmeasurableError if one has failed."""
    words = [word for header in headers for word in ("-H", header)]
    amount = ["-t", "1", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s"]
    output = run("wrk", *amount, *words, f"http://127.0.0.1:{port}/")
    found = _RATE.search(output)
    if found is None or _FAULTS.search(output):
        raise UnmeasurableError(f"wrk: {output}")
    return float(found[1])


def _measure(
    ground: Ground, runs: int, name: str, measure: Callable[[WebGround, int], float]
) -> tuple[list[float], list[float]]:
    """Return what both sides gave, berth-web first."""
    with web_ground.opened(ground) as web:
        sides = {
            "ours": lambda: measure(web, deploy.WEB_PORT),
            "peer": lambda: measure(web, web_ground.NGINX_PORT),
        }
        found = in_turns(sides, runs, name=name, unit="ms" if name == FIRST_BYTE else "1/s")
    return found["ours"], found["peer"]
