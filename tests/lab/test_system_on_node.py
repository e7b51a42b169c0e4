"""A system volume whose top is on the node's disk while a job runs, as its job keeps it; without the broker (ADR 120)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.session_job import SessionJob, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench

PACKAGE = """set -e; cd; mkdir -p tool/DEBIAN tool/opt/tool/deep
printf 'Package: tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: alice\\nDescription: tool\\n' >tool/DEBIAN/control
echo works >tool/opt/tool/deep/file
dpkg-deb --build --root-owner-group tool tool.deb >/dev/null
sudo dpkg -i tool.deb >/dev/null"""
INSTALLED = "cat /opt/tool/deep/file; dpkg -s tool | grep -c 'install ok installed'"


@pytest.fixture
def kept(session: SessionJob) -> Iterator[SessionJob]:
    """A session whose driver is `plain`, with its system on the node."""
    session.mount("plain", home=session.home, system=session.system, on_node=True)
    yield session


def saved(session: SessionJob) -> dict[str, object]:
    """What the session's jobs have saved of its top."""
    text = session.bench.sh(f"cat {session.layer(session.system[0])}/saved 2>/dev/null || echo '{{}}'")
    found: dict[str, object] = json.loads(text)
    return found


class TestSaves:
    def test_package_stays_after_a_stop_and_a_start_elsewhere(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        kept.says(
            "sudo rm -r /usr/share/bug; sudo mkdir /usr/share/bug; sudo rm /etc/motd; sudo mkdir -m 0 /opt/closed"
        )
        kept.stop()
        assert kept.bench.sh(f"ls {kept.system_tree}") == "", "nothing writes to the shared file system's tree"
        assert kept.traces("c1") == []
        kept.start("--nodelist=c2")
        assert kept.says(INSTALLED) == "works\n1"
        assert kept.says("ls /usr/share/bug; ! ls /etc/motd; stat -c %a /opt/closed") == "0"
        kept.says("sudo dpkg -r tool >/dev/null")
        kept.stop()
        kept.start("--nodelist=c1")
        assert kept.says("! ls /opt/tool 2>/dev/null; ls /usr/share/bug; ! ls /etc/motd; stat -c %a /opt/closed") == "0"
