"""The commands for a session where the shared file system takes no overlay (ADR 120)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from slurm.lab.spec import NODES
from tests.lab.batch_work import Work
from tests.lab.kept import Kept
from tests.lab.services import died_and_restarted
from tests.lab.test_system_on_node import INSTALLED, PACKAGE
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

CONFIG = "/etc/berth/config.yaml"
PROGRAMS = ["/usr/local/sbin/mount", "/usr/local/sbin/fuse-overlayfs"]
FILE_SERVER = b"""#!/bin/bash
# As a kernel and fuse-overlayfs do where /shared is on a file server that takes no overlay.
for word; do
  [[ $word =~ (^|,)upperdir=([^,]*) && $(realpath "${BASH_REMATCH[2]}") == /shared/* ]] || continue
  echo "${0##*/}: wrong fs type, bad option, bad superblock on berth" >&2
  exit 32
done
exec "/usr/bin/${0##*/}" "$@"
"""


@pytest.fixture(scope="module", autouse=True)
def _file_server(site: Site, image: str) -> Iterator[None]:
    """The site's shared file system is one that the kernel refuses as an upper directory, and a save takes 2 s."""
    assert image
    before = site.run(f"cat {CONFIG}", user="root").encode()
    settings = b"storage:\n  save_every: 2\n  flatten_at: 6"
    for node in NODES:
        for program in PROGRAMS:
            site.lab.run(["sh", "-c", f"cat >{program}; chmod 755 {program}"], node=node, stdin=FILE_SERVER)
    _configure(site, before.replace(b"storage:", settings))
    yield
    for node in NODES:
        site.lab.run(["rm", *PROGRAMS], node=node)
    _configure(site, before)


def _configure(site: Site, settings: bytes) -> None:
    site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=settings)
    site.run("sh -c 'rm -f /shared/berth/*/probe.json'", user="root")
    site.kill("broker")
    died_and_restarted(site)


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    """A session in which a package was installed."""
    made = Kept(alice, name)
    made.start()
    made.says(PACKAGE)
    return made


def changed(session: Kept, *words: str) -> set[tuple[str, str]]:
    report = json.loads(session.user.ok("diff", session.name, *words, "--json"))
    return {(each["change"], each["path"]) for each in report["files"] if each["volume"] == "system"}


def test_doctor_and_show_name_the_price(kept: Kept) -> None:
    price = "a lost node, or a job that is killed, loses those since the last save"
    assert price in " ".join(kept.user.ok("doctor").split())
    assert any(price in promise for promise in kept.view()["volumes"]["promises"])


@pytest.mark.soak
def test_a_package_is_there_after_stop_and_cancel_and_every_operation_knows_it(
    kept: Kept, alice: User, new_name: Callable[[str], str], other: str
) -> None:
    kept.stop()
    kept.again()
    assert kept.says(INSTALLED) == "works\n1"
    kept.snapshot("with")  # of a running session
    kept.says("sudo dpkg -r tool >/dev/null; sudo rm /etc/issue; echo two >/srv/mark")
    alice.site.lab.run(["scancel", str(kept.view()["job_id"])])
    alice.until(kept.name, lambda view: view["state"] == "stopped", what="the end of the job")
    assert {("A", "/srv/mark"), ("D", "/etc/issue")} <= changed(kept)
    assert ("D", "/opt") in changed(kept, "--from", "with")
    kept.snapshot("without")  # of a stopped one
    kept.verified()
    kept.again()
    assert kept.says("cat /srv/mark; ! ls /opt/tool /etc/issue 2>/dev/null") == "two"

    copy = Kept(alice, new_name("c"))
    alice.ok("clone", kept.name, copy.name, "--at", "with", "--timeout", "60", seconds=90)
    copy.again()
    assert copy.says(f"{INSTALLED}; ls /etc/issue; ! ls /srv/mark 2>/dev/null") == "works\n1\n/etc/issue"

    alice.ok("rollback", kept.name, "with", "--yes", "--timeout", "60", seconds=90)
    assert kept.says(f"{INSTALLED}; ls /etc/issue; ! ls /srv/mark 2>/dev/null") == "works\n1\n/etc/issue"
    kept.stop()
    alice.ok("switch", kept.name, other, "--yes", "--timeout", "60", seconds=90)
    kept.again()
    assert kept.says("! ls /opt/tool 2>/dev/null") == ""
    alice.ok("switch", kept.name, "base", "--yes", "--timeout", "60", seconds=90)
    assert kept.says(INSTALLED) == "works\n1"
    kept.stop()
    kept.verified()


def test_root_commands_batch_jobs_flattening_and_an_image_have_the_package(kept: Kept, alice: User, room: str) -> None:
    alice.ok(
        "exec",
        "--root",
        "--yes",
        kept.name,
        "--",
        "sh",
        "-c",
        "echo x >/srv/theirs; chown games /srv/theirs",
        seconds=180,
    )
    for number in range(2):
        kept.says(f"echo {number} >/srv/{number}")
        kept.stop()
        kept.again()
    report = json.loads(alice.ok("diff", kept.name, "--json"))
    assert report["system_as_of"] > 0
    wait_for(lambda: ("A", "/srv/1") in changed(kept), what="a save, as a look at a running session shows")
    kept.stop()
    alice.ok("flatten", kept.name)
    wait_for(lambda: kept.view()["volumes"]["layers"]["system"] == 1, what="one layer")
    said = Work(alice).run(f"--env {kept.name}", f"{INSTALLED}; cat /srv/theirs /srv/1")
    assert said == "works\n1\nx\n1\n"
    image = json.loads(
        alice.ok("profile", "commit", kept.name, "tooled@1", "--store", room, "--yes", "--json", seconds=180)
    )
    listed = alice.site.lab.sh(f"unsquashfs -lln -o {image['offset']} {image['path']} opt/tool/deep/file srv/theirs")
    assert "opt/tool/deep/file" in listed
    assert re.search(r" 5/0 .* \S*srv/theirs$", listed, re.MULTILINE)
    kept.again()
    assert kept.says(f"{INSTALLED}; cat /srv/0 /srv/1 /srv/theirs") == "works\n1\n0\n1\nx"
    kept.verified()
