"""`memory`: what the jump host keeps for a connection that does nothing, the gateway and OpenSSH's sshd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import route
from tests.bench.ground import HERE, PYTHON, SSH_CONFIG, USER
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.site.deploy import GATEWAY_ACCOUNT

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "memory"
TARGET = Target(0.05)
CONNECTIONS = 40
FEW = 4
"""Connections that stand before, so that nothing is loaded or made ready for the first of those that count."""

GATEWAY = f"pgrep -u {GATEWAY_ACCOUNT}"
SSHD = "pgrep -x 'sshd|sshd-session|sshd-auth'"
"""The command that lists the measured processes of the login node."""


def measure(ground: Ground, runs: int) -> Result:
    def kilobytes(host: str, processes: str) -> float:
        few = _with(ground, host, processes, FEW)
        return (_with(ground, host, processes, FEW + CONNECTIONS) - few) / CONNECTIONS

    def ours() -> float:
        ground.site.new_gateway_workers()
        return kilobytes(route.GATEWAY, GATEWAY)

    with route.session(ground):
        sides = {"ours": ours, "peer": lambda: kilobytes(route.JUMP, SSHD)}
        each = in_turns(sides, runs, name=NAME, unit="kB")
    return result(NAME, each["ours"], each["peer"], "kB", TARGET)


def _with(ground: Ground, host: str, processes: str, count: int) -> float:
    """Kilobytes of those processes together (proc(5), Pss) while so many connections stand."""
    command = [*PYTHON, f"{HERE}/idle.py", SSH_CONFIG, host, str(count)]
    with ground.lab.popen(["timeout", "120", *command], user=USER) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        if idle.stdout.readline() != b"standing\n":
            raise UnmeasurableError(f"{NAME}: the connections do not stand")
        pss = ground.lab.sh(f"for pid in $({processes}); do cat /proc/$pid/smaps_rollup; done")
        idle.stdin.close()
        idle.wait()
    return sum(float(line.split()[1]) for line in pss.splitlines() if line.startswith("Pss:"))
