"""The site's services brought back by a test that lets them die."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.site.deploy import Site


def restart(site: Site) -> None:
    """Launcher, controller and berth-web run and answer, whether or not they did before; no failpoint is armed."""
    if site.armed("broker"):
        site.kill("broker", "KILL")
    for service in ("broker", "web"):
        if site.pid(service) is None:
            site.start(service)
    wait_for(site.api_answers, what="the controller to answer again")
    wait_for(site.web_answers, what="berth-web to answer again")


def died_and_restarted(site: Site) -> None:
    """They end by themselves, and run again."""
    wait_for(lambda: site.ended("broker"), what="launcher and controller to end after the crash")
    restart(site)
