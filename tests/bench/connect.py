"""`connect`: what the jump adds to a login, through the gateway and through OpenSSH on the same node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import route
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "connect"
TARGET = Target(0.3)
MORE = 3
"""Logins are short, and their differences shorter still: it takes more of them to stand out from the noise."""


def measure(ground: Ground, runs: int) -> Result:
    def seconds(host: str) -> float:
        return ground.timed(route.ssh(host, "true"), seconds=30)[0]

    with route.session(ground):
        times = in_turns(
            {
                "straight": lambda: seconds(route.DIRECT),
                "ours": lambda: seconds(route.GATEWAY),
                "peer": lambda: seconds(route.JUMP),
            },
            MORE * runs,
            name=NAME,
            unit="s",
        )
    straight = times["straight"]
    ours = [through - without for through, without in zip(times["ours"], straight, strict=True)]
    peer = [through - without for through, without in zip(times["peer"], straight, strict=True)]
    return result(NAME, ours, peer, "s", TARGET)
