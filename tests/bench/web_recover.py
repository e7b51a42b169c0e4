"""`web-recover`: from the kill of a process of web access to the next page for the same browser, against 5 s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.bench import web_ground
from tests.bench.harness import in_turns
from tests.bench.report import FEWEST_RUNS, Result, Target, UnmeasurableError, result
from tests.lab.web_deaths import WEB_DEATHS
from tests.site.deploy import WEB_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.ground import Ground
    from tests.bench.web_ground import WebGround
    from tests.site.deploy import Site

NAME = "web-recover"
LONGEST_S = 5.0
GIVES_UP_S = 60.0
TIMES = 5
"""Kills of each process, of which the slowest counts."""


def measure(ground: Ground, runs: int) -> Result:
    """Measure the worst of TIMES kills of each process; the result has it FEWEST_RUNS times."""
    del runs
    with web_ground.opened(ground) as web:
        sides = {process: _after(web, kill) for process, kill in WEB_DEATHS.items()}
        seconds = in_turns(sides, TIMES, name=NAME, unit="s")
    worst = max(max(each) for each in seconds.values())
    return result(NAME, [worst] * FEWEST_RUNS, [LONGEST_S] * FEWEST_RUNS, "s", Target(1))


def _after(web: WebGround, kill: Callable[[Site], None]) -> Callable[[], float]:
    def measured() -> float:
        _until_page(web)
        kill(web.ground.site)
        return _until_page(web)

    return measured


def _until_page(web: WebGround) -> float:
    """Ask for the service's page, with the browser's cookie, until it is there; return the seconds."""
    headers = [part for header in web.headers(web_ground.PAGE) for part in ("-H", header)]
    ask = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", *headers]
    ask += ["-H", "Sec-Fetch-Site: same-origin", "-H", "Sec-Fetch-Mode: cors", f"http://127.0.0.1:{WEB_PORT}/"]
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < GIVES_UP_S:
        if web.ask(*ask) == "200":
            return time.perf_counter() - began
        time.sleep(0.01)
    raise UnmeasurableError(f"{NAME}: no page after {took:.0f} s")
