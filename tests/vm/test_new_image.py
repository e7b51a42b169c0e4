"""`berth profile commit`: from a session's own changes to a session of the new image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.site.guest_site import PROFILE_TEAM
from tests.vm.person import WAIT, Person

if TYPE_CHECKING:
    from slurm.vm.guest import Guest

pytestmark = pytest.mark.vm

LONG_SECONDS = 1800
"""Unpacking and packing an image takes minutes under emulation."""


@pytest.fixture
def publisher(guest: Guest, alice: Person, personal: bool, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A person who may publish: of the profile team, or a user in personal mode."""
    return alice if personal else Person.of(guest, PROFILE_TEAM, tmp_path_factory.mktemp("laptop"), personal=False)


def test_image_of_a_session_has_its_changes_and_deletions(publisher: Person) -> None:
    publisher.ok("start", "old", "--profile", "base", "--mem=600M", *WAIT)
    publisher.inside("old", "echo hello >/etc/motd; rm /etc/issue; rm -r /usr/share/bug; echo mine >~/mine")
    said = publisher.ok("profile", "commit", "old", "grown@1", "--yes", "--json", seconds=LONG_SECONDS)
    found = {(each["change"], each["path"]) for each in json.loads(said)["committed"]["files"]}
    assert {("D", "/etc/issue")} <= found
    assert "/etc/motd" in {path for _, path in found}
    assert publisher.show("old")["state"] == "ready"
    publisher.ok("stop", "old", *WAIT)
    publisher.ok("start", "new", "--profile", "grown@1", "--mem=600M", *WAIT)
    assert publisher.inside("new", "cat /etc/motd; ls /etc/issue /usr/share/bug ~/mine 2>/dev/null || :") == "hello"
    publisher.ok("stop", "new", *WAIT)
    for name in ("new", "old"):
        publisher.ok("delete", name, "--purge", "--yes", *WAIT)
    publisher.ok("profile", "delete", "grown@1", "--yes")
