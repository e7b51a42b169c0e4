"""A package gets a new version in an archive; the rebuild makes a candidate that is tested and becomes stable."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab.images import ROOM, SECONDS, write
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

PORT = 8973
STORE = "/shared/berth/alice/profiles"
ARCHIVE = f"{ROOM}/archive"
PRIVATE = f"chmod 700 {STORE} {STORE}/tools"
"""The node does not know that this is a user's own store."""
PACKAGE = r"""
cd $(mktemp -d)
mkdir -p build/DEBIAN build/usr/bin
printf '%s\n' 'Package: greet' "Version: $1" 'Architecture: all' 'Maintainer: Tests <tests@example.org>' \
  'Description: for tests' >build/DEBIAN/control
printf '#!/bin/sh\necho hello %s\n' "$1" >build/usr/bin/greet
chmod 755 build/usr/bin/greet
mkdir -p "$2"
dpkg-deb --root-owner-group -b build "$2/greet.deb" >/dev/null
{ dpkg-deb -f "$2/greet.deb"; echo "Filename: ./greet.deb"; echo "Size: $(stat -c %s "$2/greet.deb")"
  echo "SHA256: $(sha256sum "$2/greet.deb" | cut -d' ' -f1)"; } >"$2/Packages"
"""
"""Makes the package greet in version $1, in the archive $2, which then has nothing else."""
SOURCED = f"""
name: sourced
version: 1
base: profile:{{base}}
files:
  - {{{{destination: /etc/apt/sources.list, content: "deb [trusted=yes] http://{{address}}:{PORT} ./\\n"}}}}
post: rm -f /etc/apt/sources.list.d/*
"""
TOOLS = """
name: tools
version: 1.0
base: profile:own/sourced@1
apt: [greet]
resources: {gres: "gpu:intel:1", mem: 1G}
checks:
  - {name: greets, command: "greet | grep hello"}
  - {name: device, command: 'test -n "$ZE_AFFINITY_MASK"', gpu: true}
  - {name: lasts, command: "test -e ~/first || touch ~/first"}
"""


def offer(alice: User, version: str) -> None:
    """Let the archive have this version of the package, and no other."""
    alice.site.lab.run(["sh", "-euc", PACKAGE, "sh", version, ARCHIVE], user="alice")


@pytest.fixture(scope="module")
def team(people: dict[str, User], room: str) -> Iterator[User]:
    """Alice with tools@1.0 as stable in her own store, and an archive that has greet 1.0."""
    alice = people["alice"]
    lab = alice.site.lab
    assert room == ROOM
    offer(alice, "1.0")
    address = lab.sh("getent ahostsv4 login").split()[0]
    server = subprocess.Popen(
        lab.argv(["python3", "-m", "http.server", "--bind", address, "-d", ARCHIVE, str(PORT)], user="alice"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: lab.run(["curl", "-fs", f"{address}:{PORT}/Packages"]).returncode == 0, what="the archive")
        base = lab.sh("ls -d /profiles/base/*").split()[-1].replace("/profiles/base/", "base@")
        for name, text in (("sourced", SOURCED.format(base=base, address=address)), ("tools", TOOLS)):
            alice.ok("profile", "build", write(lab, f"{name}.yaml", text), "--store", "own", seconds=DEADLINE_S)
        alice.ok("profile", "promote", "tools@1.0", "--without-checks", "--reason", "the first")
        yield alice
    finally:
        server.kill()
        server.wait()
        lab.sh(f"rm -rf {STORE}/tools {STORE}/sourced")


def rebuild(team: User, *words: str) -> dict[str, Any]:
    done = team.berth("profile", "rebuild", *words, "--json", seconds=200)
    assert done.returncode == 0, done.stderr.decode()
    (found,) = json.loads(done.stdout)["rebuilt"]
    return dict(found)


def channels(team: User) -> dict[str, str]:
    found: dict[str, str] = json.loads(team.ok("profile", "history", "tools", "--json"))["channels"]
    return found


def test_new_package_becomes_a_tested_candidate_and_stable(team: User) -> None:
    assert not rebuild(team, "tools")["built"]
    offer(team, "1.1")
    made = rebuild(team, "--all", "--test")
    assert (made["built"], made["version"], made["passed"]) == (True, "1.0+b1", True)
    change = {"kind": "deb", "name": "greet", "before": "1.0", "after": "1.1"}
    assert [each for each in made["changes"] if each["kind"] == "deb"] == [change]
    assert channels(team) == {"stable": "1.0", "candidate": "1.0+b1"}
    history = json.loads(team.ok("profile", "history", "tools", "--json"))["history"]
    assert history[-1]["reason"] == "rebuild of 1.0: greet 1.0 -> 1.1"
    shown = json.loads(team.ok("profile", "show", "tools@candidate", "--json"))
    assert change in shown["rebuild"]["changes"]
    assert [(step["name"], step["run"], step["outcome"]) for step in shown["verdict"]["steps"]] == [
        (name, run, "passed")
        for run in (1, 2)
        for name in ("start", "ssh", "sftp", "dpkg", "gpu", "check greets", "check device", "check lasts", "stop")
        if (name, run) != ("stop", 2)
    ]
    by_name = {(step["name"], step["run"]): step for step in shown["verdict"]["steps"]}
    assert "SLURM_JOB_GPUS=" in by_name["gpu", 1]["message"]
    assert by_name["check greets", 2]["output"] == ["hello 1.1"]
    assert not [name for name in team.sessions() if name.startswith("profile-test-")]
    assert not rebuild(team, "tools")["built"]

    argv = team.site.lab.argv(["berth", "profile", "promote", "tools@candidate"], user="alice")
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(2)]
    said = [each.communicate(timeout=DEADLINE_S)[1].decode() for each in both]
    assert sorted(each.returncode for each in both) == [0, 5], said
    assert channels(team) == {"stable": "1.0+b1", "candidate": "1.0+b1", "previous": "1.0"}
    history = json.loads(team.ok("profile", "history", "tools", "--json"))["history"]
    assert [each["test"] for each in history] == ["forced", "", "passed"]


@pytest.mark.soak
def test_scheduled_job_rebuilds_on_a_node(team: User) -> None:
    """Berth has no configuration on the node, so the job names the store."""
    offer(team, "1.2")
    before = channels(team).get("candidate")
    line = f"* * * * * berth profile rebuild tools@stable --store {STORE} >>~/rebuild.log 2>&1"
    team.site.lab.run(["scrontab", "-"], user="alice", stdin=f"#SCRON --time=10 --mem=2G\n{line}\n".encode())
    try:
        wait_for(lambda: channels(team).get("candidate") not in {None, before}, what="the candidate", seconds=300)
    finally:
        said = team.site.lab.sh(f"scrontab -r; cat ~/rebuild.log; rm ~/rebuild.log; {PRIVATE}", user="alice")
    assert "greet 1." in said
    assert "-> 1.2" in said
    assert json.loads(team.ok("profile", "show", "tools@candidate", "--json"))["rebuild"]["changes"]


@pytest.mark.soak
def test_full_store_is_told_and_keeps_what_it_has(team: User) -> None:
    """The store has room for one image."""
    lab, full = team.site.lab, f"{ROOM}/full"
    offer(team, "1.9")
    lab.sh(f"install -d {full} && mount -t tmpfs -o size=130m,mode=700,uid=$(id -u alice) full {full}")
    try:
        lab.sh(f"mkdir {full}/tools && cp -r {STORE}/tools/1.0 {STORE}/tools/channels.json {full}/tools", user="alice")
        before = lab.sh(f"cd {full} && find . -type f ! -name '.*lock' -exec sha256sum {{}} +")
        done = team.berth("profile", "rebuild", "tools@1.0", "--store", full, seconds=200)
        assert done.returncode != 0
        assert b"no space left" in done.stderr.lower(), done.stderr.decode()
        assert b"Traceback" not in done.stderr
        kept = f"cd {full} && find . -type f ! -name '.*lock' ! -name '*.failed.log' -exec sha256sum {{}} +"
        assert lab.sh(kept) == before
    finally:
        lab.sh(f"umount {full} && rmdir {full}")


@pytest.mark.soak
def test_fresh_debian_with_python_packages_has_nothing_new_after_its_build(lab: Lab, room: str) -> None:
    """The simulations of apt and pip agree with what a build installs."""
    assert room == ROOM
    recipe = write(lab, "fresh.yaml", "name: fresh\nversion: 1\nbase: debian:sid\napt: [hello]\npip: [idna]\n")
    script = f"""
    berth profile build {recipe} --store {ROOM}/fresh
    berth profile promote fresh@1 --store {ROOM}/fresh --without-checks --reason first
    berth profile rebuild fresh --store {ROOM}/fresh
    """
    argv = lab.argv(["sh", "-euc", script], user="alice", host_network=True)
    done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Nothing was built: fresh@1" in done.stderr
