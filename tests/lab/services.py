"""The site's services brought back by a test that lets them die."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.site.deploy import Site


def restart(site: Site) -> None:
    """Launcher and controller run and answer, whether or not they did before."""
    if site.pid("broker") is None:
        site.start("broker")
    wait_for(site.api_answers, what="the controller to answer again")


def died_and_restarted(site: Site) -> None:
    """They end by themselves, and run again."""
    wait_for(lambda: site.ended("broker"), what="launcher and controller to end after the crash")
    restart(site)
