"""Kill each process of web access on a lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.site.deploy import Site


def _haproxy(site: Site, which: str) -> int:
    """The master, which berth-web has started, or its worker."""
    pids = [int(pid) for pid in site.lab.sh(f"pgrep -u {deploy.WEB_ACCOUNT} -x haproxy").split()]
    parents = {pid: int(site.lab.sh(f"ps -o ppid= -p {pid}")) for pid in pids}
    return next(pid for pid in pids if (parents[pid] in pids) == (which == "worker"))


def _kill_haproxy(site: Site, which: str) -> None:
    site.lab.sh(f"kill -KILL {_haproxy(site, which)}")


def _kill_tunnel(site: Site) -> None:
    site.lab.sh(f"pkill -KILL -u {deploy.WEB_ACCOUNT} -x ssh")


def _kill_web(site: Site) -> None:
    """Kill berth-web, and start it as systemd does."""
    site.kill("web", "KILL")
    site.start("web")


WEB_DEATHS: dict[str, Callable[[Site], None]] = {
    "master of haproxy": lambda site: _kill_haproxy(site, "master"),
    "worker of haproxy": lambda site: _kill_haproxy(site, "worker"),
    "tunnel": _kill_tunnel,
    "berth-web": _kill_web,
}
"""By the name of the process."""
