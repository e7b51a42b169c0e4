"""`berth cluster` hides from users the data that Slurm's PrivateData hides."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slurm.lab.spec import NODES
from tests.lab.services import died_and_restarted
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

pytestmark = pytest.mark.waits


def restart(site: Site) -> None:
    """The controller forgets the answers of Slurm."""
    site.kill("broker")
    died_and_restarted(site)


@contextmanager
def private_data(site: Site, words: str) -> Iterator[None]:
    """Set this PrivateData in slurm.conf during the block, with a restarted controller.

    A node may have its own slurm.conf, if another module has changed it.
    """

    def configure(script: str, shown: str) -> None:
        for node in NODES:
            site.lab.sh(f"{script} /etc/slurm/slurm.conf", node=node)
        site.lab.sh("scontrol reconfigure")
        wait_for(
            lambda: site.lab.sh("scontrol show config | sed -n 's/^PrivateData *= //p'") == shown,
            what=f"PrivateData={shown}",
        )
        restart(site)

    configure(f"sed -i '$ a PrivateData={words}'", words)
    try:
        yield
    finally:
        configure("sed -i '/^PrivateData=/d'", "none")


def test_things_that_slurm_hides_are_hidden(bob: User) -> None:
    lab = bob.site.lab
    job = lab.sh("sbatch --parsable --hold --chdir=/tmp --output=/dev/null --wrap=true", user="alice")
    try:
        with private_data(bob.site, "jobs,nodes"):
            assert_hidden(bob, job)
    finally:
        lab.sh(f"scancel {job}")
    assert json.loads(bob.ok("cluster", "--json"))["hidden"] == []


def assert_hidden(bob: User, job: str) -> None:
    """`berth cluster` shows bob neither nodes nor the waiting job of alice."""
    lab = bob.site.lab
    assert lab.run(["sinfo"], user="bob").returncode != 0, "Slurm hides its nodes"
    assert job not in lab.sh("squeue -h -o %i", user="bob")
    view = json.loads(bob.ok("cluster", "--json"))
    assert view["hidden"] == ["jobs", "nodes"]
    assert (view["nodes"], view["largest"], view["queue"]["jobs"]) == ([], None, [])
    assert [(part["name"], part["nodes"], part["usage"]) for part in view["partitions"]] == [
        ("gpu", 3, None),
        ("urgent", 3, None),
    ]
    assert view["queue"]["pending"] == 1
    assert "alice" not in json.dumps(view)
    done = bob.berth("cluster")
    assert "This site does not show nodes to users." in done.stderr.decode()
