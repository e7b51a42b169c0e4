"""Three ways to one session: through the gateway, through OpenSSH on the same login node, and straight."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.bench.ground import PROFILE, ROOM, SSH_CONFIG, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.ground import Ground

SESSION = "route"
GATEWAY = f"{SESSION}.berth"
JUMP = "by-openssh"
DIRECT = "straight"
"""ssh's names for the ways; each ends at the session's own sshd, under the session's own host certificate."""


@contextmanager
def session(ground: Ground) -> Iterator[None]:
    """Run a session during the block to which all three names lead."""
    ground.sh(f"berth start {SESSION} --profile {PROFILE} --mem=2G", seconds=120)
    try:
        endpoint = ground.berth(f"show {SESSION}")["endpoint"]
        hosts = _HOSTS.format(node=endpoint["node"], port=endpoint["port"])
        ground.sh(f"cat >{ROOM}/hosts/{SESSION} <<'END'\n{hosts}END")
        yield
    finally:
        ground.sh(f"berth stop {SESSION} && berth delete --yes {SESSION}")


def ssh(host: str, command: str) -> list[str]:
    """The ssh command line, without a terminal."""
    return ["ssh", "-T", "-F", SSH_CONFIG, host, command]


_HOSTS = f"""\
Host {DIRECT} {JUMP}
HostName {{node}}
Port {{port}}
HostKeyAlias {USER}.{SESSION}.berth
Host {JUMP}
ProxyJump login
"""
