"""`berth diff` on each site: added, changed and deleted files of both volumes, with layers of any writer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.vm.person import WAIT

if TYPE_CHECKING:
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

BEFORE = """
rm -rf ~/d /opt/d
for place in ~ /opt; do
  mkdir -p $place/d/gone $place/d/replaced
  for file in gone/file replaced/old left file; do echo x >$place/d/$file; done
done
"""
AFTER = """
for place in ~ /opt; do
  cd $place/d
  rm -r gone file
  rm -r replaced
  mkdir replaced
  echo y >replaced/new
  echo longer >left
done
rm -f /etc/issue
rm -rf /usr/share/bug
"""
SINCE = {("D", "gone"), ("D", "file"), ("D", "replaced/old"), ("A", "replaced/new"), ("M", "left")}
PLACES = ("/home/alice/d", "/opt/d")


def changes(alice: Person, session: str, *words: str) -> set[tuple[str, str]]:
    report = json.loads(alice.ok("diff", session, *words, "--json"))
    return {(each["change"], each["path"]) for each in report["files"]}


@pytest.mark.parametrize("when", ["running", "stopped"])
def test_deletions_are_shown(alice: Person, dev: str, on_node: bool, when: str) -> None:
    """Of a running session whose system is on the node's disk, what was last saved is shown, here by a snapshot."""
    alice.inside(dev, BEFORE)
    before = str(json.loads(alice.ok("snapshot", dev, "--json", *WAIT))["number"])
    alice.inside(dev, AFTER)
    if when == "stopped":
        alice.ok("stop", dev, *WAIT)
    elif on_node:
        assert "/opt/d/left" not in {path for _, path in changes(alice, dev, "--from", before)}
        alice.ok("snapshot", dev, *WAIT)
    since = changes(alice, dev, "--from", before)
    found = {each for each in since if each[1].startswith(tuple(f"{place}/" for place in PLACES))}
    assert found == {(change, f"{place}/{path}") for change, path in SINCE for place in PLACES}
    assert {("D", "/etc/issue"), ("D", "/usr/share/bug")} <= changes(alice, dev)
    alice.ok("rollback", dev, before, "--yes", *WAIT)
    if when == "stopped":
        alice.ok("start", dev, *WAIT)
    assert alice.inside(dev, "ls -d /etc/issue /usr/share/bug ~/d/gone /opt/d/gone | wc -l") == "4"
