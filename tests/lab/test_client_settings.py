"""Client settings of compute nodes: sessions and batch jobs have them at run time, and keep nothing of them.

This test needs package registries, as the builds of images do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slurm.lab.registry_proxy import PROXY_URL
from tests.site.client_settings import IN_SESSION, connect_sessions, disconnect_sessions, read_client_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

SECONDS = 240


@pytest.fixture
def offline_afterwards(site: Site) -> Iterator[None]:
    """The other tests on this lab have no network."""
    yield
    disconnect_sessions(site.lab)


@pytest.mark.usefixtures("offline_afterwards")
def test_a_session_reaches_registries_and_keeps_nothing_of_the_settings(site: Site, alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(name, f'test ! -e {IN_SESSION} && test -z "${{https_proxy-}}"')
    connect_sessions(site.lab, read_client_settings(os.environ))
    alice.ok("restart", name)

    apt = "sudo apt-get update -qq && sudo apt-get install -y -qq tree >/dev/null && tree --version"
    assert b"tree v" in alice.laptop.ok(name, apt, seconds=SECONDS)
    pip = "python3 -m venv v && v/bin/pip install -q six && v/bin/python -c 'import six; print(six.__name__)'"
    assert alice.laptop.ok(name, pip, seconds=SECONDS) == b"six\n"
    mounted = alice.laptop.ok(name, f"grep ' {IN_SESSION} ' /proc/mounts").split()
    assert b"ro" in mounted[3].split(b",")

    wrap = f"printenv https_proxy; test -r {IN_SESSION}/environment && echo readable"
    job = alice.ok("sbatch", "--env", name, "--wait", "-o", "settings.out", "--wrap", wrap, seconds=SECONDS)
    assert "Submitted" in job
    assert site.lab.sh("cat ~alice/settings.out; rm ~alice/settings.out").split() == [PROXY_URL, "readable"]

    alice.ok("snapshot", name)
    alice.ok("stop", name)
    assert not site.lab.sh(f"grep -rlsF {PROXY_URL} /shared/berth/alice || :")
    assert not site.lab.sh(f"find /shared/berth/alice -path '*{IN_SESSION}/*'")
