"""Files and folders without write permission, as git and dpkg make them: kept on each site, or refused beforehand.

On NFS the server decides what the owner of a file may do, also for root of a user namespace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.person import Person

pytestmark = pytest.mark.vm

FILL = (
    "cd; [ ! -e repo ] || chmod -R u+w repo; rm -rf repo; mkdir -p repo/objects; "
    "echo one >repo/objects/one; chmod 444 repo/objects/one; chmod 555 repo/objects"
)
CHANGE = (
    "cd; mkdir -m 0 shut; rmdir shut; chmod u+w repo/objects; mv repo/objects/one repo/objects/two; "
    "echo three >repo/new; mv -f repo/new repo/objects/two; rm -rf repo"
)
LOOK = "cd; stat -c '%a %n' repo/objects repo/objects/*; cat repo/objects/one"
FILLED = ["555 repo/objects", "444 repo/objects/one", "one"]
PACKAGE = """cd; rm -rf tool; mkdir -p tool/DEBIAN tool/opt/tool/deep
printf 'Package: tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: alice\\nDescription: tool\\n' >tool/DEBIAN/control
echo works >tool/opt/tool/deep/file
dpkg-deb --build --root-owner-group tool tool.deb >/dev/null"""
LIMIT = "makes no folder without write permission"
PRICE = "loses those since the last save"
"""Of a system volume on the node's disk (ADR 120)."""


@pytest.fixture(scope="module")
def on_server(site: str) -> bool:
    """Whether sessions lie on a file server."""
    return site != "ext4"


@pytest.fixture
def closed_file(alice: Person, dev: str) -> Iterator[str]:
    """A file in the home that its owner may not read."""
    alice.inside(dev, "cd; mkdir -p private; echo secret >private/file; chmod 0 private/file")
    yield "private/file"
    alice.inside(dev, "cd; chmod 700 private/file; rm -r private")


def test_doctor_and_show_tell_of_the_limit_or_of_the_price(alice: Person, dev: str, on_server: bool) -> None:
    told, promises = " ".join(alice.ok("doctor").split()), " ".join(alice.show(dev)["volumes"]["promises"])
    assert [text for text in (LIMIT, PRICE) if text in told] == [text for text in (LIMIT, PRICE) if text in promises]
    assert (LIMIT in told) + (PRICE in told) == on_server


def test_read_only_files_of_a_snapshot_can_be_changed_and_come_back(alice: Person, dev: str) -> None:
    alice.inside(dev, FILL)
    assert alice.inside(dev, LOOK).splitlines() == FILLED
    alice.ok("stop", dev, "--timeout", "280")
    made = json.loads(alice.ok("snapshot", dev, "--json", "--timeout", "280"))
    alice.ok("start", dev, "--timeout", "280")
    alice.inside(dev, CHANGE)
    alice.ok("rollback", dev, str(made["number"]), "--yes", "--timeout", "280")
    assert alice.inside(dev, LOOK).splitlines() == FILLED
    alice.inside(dev, CHANGE)


def test_file_that_nobody_may_read_is_kept_or_named_with_the_remedy(
    alice: Person, dev: str, on_server: bool, closed_file: str
) -> None:
    before = len(json.loads(alice.ok("snapshots", dev, "--json")))
    done = alice.berth("snapshot", dev, "--timeout", "280")
    after = len(json.loads(alice.ok("snapshots", dev, "--json")))
    if on_server:
        assert done.returncode != 0
        assert f"cannot read {closed_file}; run `chmod u+r`" in done.stderr.decode()
        assert after == before
    else:
        assert (done.returncode, after) == (0, before + 1)


def test_package_is_installed_by_sudo_or_sudo_says_how_before_it_begins(alice: Person, dev: str) -> None:
    limited = any(LIMIT in promise for promise in alice.show(dev)["volumes"]["promises"])
    alice.inside(dev, PACKAGE)
    path = "/home/alice/tool.deb"
    if limited:
        said = alice.inside(dev, f"! sudo dpkg -i {path} 2>&1; ! dpkg -s tool >/dev/null 2>&1")
        assert f"berth exec --root {dev} -- dpkg -i {path}" in said
        alice.ok("exec", "--root", "--yes", dev, "--", "dpkg", "-i", path, seconds=600)
    else:
        alice.inside(dev, f"sudo dpkg -i {path}")
    alice.ok("stop", dev, "--timeout", "280")
    alice.ok("start", dev, "--timeout", "280")
    assert alice.inside(dev, "cat /opt/tool/deep/file; dpkg -s tool | grep Status").splitlines() == [
        "works",
        "Status: install ok installed",
    ]
