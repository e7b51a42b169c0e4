"""Files and folders without write permission, as git and dpkg make them: kept on each site, or refused beforehand.

On NFS the server decides what the owner of a file may do, also for root of a user namespace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.vm.conftest import LIMIT, PRICE
from tests.vm.person import WAIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.person import Person

pytestmark = pytest.mark.vm

FILL = (
    "[ ! -e repo ] || chmod -R u+w repo; rm -rf repo; mkdir -p repo/objects; "
    "echo one >repo/objects/one; chmod 444 repo/objects/one; chmod 555 repo/objects"
)
CHANGE = (
    "mkdir -m 0 shut; rmdir shut; chmod u+w repo/objects; mv repo/objects/one repo/objects/two; "
    "echo three >repo/new; mv -f repo/new repo/objects/two; rm -rf repo"
)
LOOK = "stat -c '%a %n' repo/objects repo/objects/*; cat repo/objects/one"
FILLED = ["555 repo/objects", "444 repo/objects/one", "one"]
PLACES = {"home": "~", "system": "/opt"}


@pytest.fixture
def closed_file(alice: Person, dev: str) -> Iterator[str]:
    """A file in the home that its owner may not read."""
    alice.inside(dev, "mkdir -p private; echo secret >private/file; chmod 0 private/file")
    yield "private/file"
    alice.inside(dev, "chmod 700 private/file; rm -r private")


def test_doctor_and_show_tell_of_the_limit_or_of_the_price(alice: Person, dev: str, site: str) -> None:
    told, promises = " ".join(alice.ok("doctor").split()), " ".join(alice.show(dev)["volumes"]["promises"])
    assert [text for text in (LIMIT, PRICE) if text in told] == [text for text in (LIMIT, PRICE) if text in promises]
    assert (LIMIT in told) + (PRICE in told) == (site != "ext4")


def test_read_only_files_of_a_snapshot_can_be_changed_and_come_back(alice: Person, dev: str, limited: bool) -> None:
    """In the system volume too, unless the doctor has announced that it cannot be."""
    places = [place for kind, place in PLACES.items() if kind == "home" or not limited]

    def each(script: str) -> list[list[str]]:
        return [alice.inside(dev, f"cd {place}; {script}").splitlines() for place in places]

    each(FILL)
    assert each(LOOK) == [FILLED] * len(places)
    alice.ok("stop", dev, *WAIT)
    made = json.loads(alice.ok("snapshot", dev, "--json", *WAIT))
    alice.ok("start", dev, *WAIT)
    each(CHANGE)
    alice.ok("rollback", dev, str(made["number"]), "--yes", *WAIT)
    assert each(LOOK) == [FILLED] * len(places)
    each(CHANGE)


def test_file_that_nobody_may_read_is_kept_or_named_with_the_remedy(
    alice: Person, dev: str, site: str, closed_file: str
) -> None:
    def count() -> int:
        return len(json.loads(alice.ok("snapshots", dev, "--json"))["snapshots"])

    before = count()
    done = alice.berth("snapshot", dev, *WAIT)
    after = count()
    if site != "ext4":
        assert done.returncode != 0
        assert f"cannot read {closed_file}; run `chmod u+r`" in done.stderr.decode()
        assert after == before
    else:
        assert (done.returncode, after) == (0, before + 1)
