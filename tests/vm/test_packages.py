"""Packages in a session: by `sudo` where the doctor announces no limit, by `berth exec --root` everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.person import WAIT

if TYPE_CHECKING:
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

MAKE = r"""
make() { # NAME: a package in the home with /opt/NAME/deep/file; its postinst is on stdin
  rm -rf build
  mkdir -p build/DEBIAN build/opt/$1/deep
  printf '%s\n' "Package: $1" 'Version: 1' 'Architecture: all' 'Maintainer: Tests <tests@example.org>' \
    "Description: $1, for tests" >build/DEBIAN/control
  cat >build/DEBIAN/postinst
  chmod 755 build/DEBIAN/postinst
  echo "$1 works" >build/opt/$1/deep/file
  dpkg-deb --build --root-owner-group build $1.deb >/dev/null
  rm -r build
}
umask 022
make by-apt <<<$'#!/bin/sh\n:'
make by-dpkg <<<$'#!/bin/sh\n:'
make by-root <<<$'#!/bin/sh\nchown daemon:daemon /opt/by-root/deep/file && chmod 640 /opt/by-root/deep/file'
"""
INSTALLED = "Status: install ok installed"


def look(name: str) -> str:
    return f"cat /opt/{name}/deep/file; dpkg -s {name} | grep Status"


def stop_and_start(alice: Person, session: str) -> None:
    alice.ok("stop", session, *WAIT)
    alice.ok("start", session, *WAIT)


@pytest.mark.short("nfs-ext4")
def test_package_is_installed_in_the_session_or_refused_with_the_remedy(alice: Person, dev: str, limited: bool) -> None:
    alice.inside(dev, MAKE)
    commands = {"by-apt": "apt-get install -y /home/alice/by-apt.deb", "by-dpkg": "dpkg -i /home/alice/by-dpkg.deb"}
    for name, command in commands.items():
        if limited:
            said = alice.inside(dev, f"! sudo {command} 2>&1; ! dpkg -s {name} >/dev/null 2>&1; [ ! -e /opt/{name} ]")
            assert f"berth exec --root {dev} -- {command}" in said
        else:
            alice.inside(dev, f"sudo {command} >&2")
    if not limited:
        stop_and_start(alice, dev)
        for name in commands:
            assert alice.inside(dev, look(name)).splitlines() == [f"{name} works", INSTALLED]


def test_package_with_files_of_another_account_is_installed_as_root(alice: Person, dev: str) -> None:
    alice.inside(dev, MAKE)
    alice.ok("exec", "--root", "--yes", dev, "--", "dpkg", "-i", "/home/alice/by-root.deb")
    stop_and_start(alice, dev)
    assert alice.inside(dev, "dpkg -s by-root | grep Status") == INSTALLED
    owner = alice.ok("exec", "--root", "--yes", dev, "--", "stat", "-c", "%U %a", "/opt/by-root/deep/file")
    assert owner == "daemon 640\n"


def test_command_that_fails_as_root_changes_nothing(alice: Person, dev: str) -> None:
    done = alice.berth("exec", "--root", "--yes", dev, "--", "sh", "-c", "echo x >/opt/by-mistake; exit 7")
    assert done.returncode == 7
    assert alice.show(dev)["state"] == "ready"
    assert alice.inside(dev, "ls /opt").find("by-mistake") < 0
