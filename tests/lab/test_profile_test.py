"""`berth profile test` in a real session: failures, interruptions, and users who may not."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab.services import died_and_restarted
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User

STORE = "/shared/berth/alice/profiles"
NAME = "checked"
ADD = """
import json, sys
from pathlib import Path
place = Path(sys.argv[1])
data = json.loads((place / "image.json").read_text())
data |= {"name": sys.argv[2], "version": sys.argv[3]}
data["profile"] |= {"name": sys.argv[2], "version": sys.argv[3], "checks": json.loads(sys.argv[4])}
(place / "image.json").write_text(json.dumps(data))
"""


def publish(alice: User, version: str, checks: list[dict[str, object]]) -> None:
    """Put the image of base into alice's own store, as another version with these checks."""
    lab, place = alice.site.lab, f"{STORE}/{NAME}/{version}"
    source = lab.sh("ls -d /profiles/base/*").split()[-1]
    lab.sh(
        f"install -d -m 700 {STORE} {STORE}/{NAME} {place} && cp {source}/* {place} && chmod 600 {place}/*",
        user="alice",
    )
    program = ["/opt/berth/venv/bin/python", "-B", "-c", ADD, place, NAME, version, json.dumps(checks)]
    done = lab.run(program, user="alice")
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def author(people: dict[str, User]) -> Iterator[User]:
    """Alice with three versions: 1 has no checks, 2 fails one, 3 has one that takes long."""
    alice = people["alice"]
    publish(alice, "1", [])
    publish(alice, "2", [{"name": "broken", "command": "echo no such device >&2; exit 3"}])
    publish(alice, "3", [{"name": "long", "command": "touch ~/waits; sleep 300", "time_limit": 600}])
    yield alice
    alice.site.lab.sh(f"rm -rf {STORE}/{NAME}")


def end(author: User, signal: str) -> None:
    pid = author.site.lab.sh("pgrep -n -u alice -f 'profile test'").strip()
    author.site.lab.sh(f"kill -{signal} {pid}")


def verdict(alice: User, version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(alice.ok("profile", "show", f"{NAME}@{version}", "--json"))["verdict"]
    return found


def left(alice: User) -> list[str]:
    return [name for name in alice.sessions() if name.startswith("profile-test-")]


def test_failed_check_is_shown_and_keeps_the_version_from_being_stable(author: User) -> None:
    done = author.berth("profile", "test", f"{NAME}@2", seconds=200)
    assert done.returncode == 1
    assert "check broken: failed" in done.stderr.decode()
    assert "  | no such device" in done.stderr.decode()
    found = verdict(author, "2")
    assert (found["passed"], found["steps"][-1]["message"]) == (False, "exit code 3")
    assert left(author) == []
    refused = author.berth("profile", "promote", f"{NAME}@2")
    assert (refused.returncode, b"has not passed its test: check broken" in refused.stderr) == (5, True)


def running(author: User) -> subprocess.Popen[bytes]:
    """A test of version 3 that has come to the check which takes long."""
    lab = author.site.lab
    process = subprocess.Popen(
        lab.argv(["berth", "profile", "test", f"{NAME}@3"], user="alice"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    wait_for(lambda: bool(left(author)), what="the session of the test")
    (name,) = left(author)
    author.wait(name, "ready")
    check = ["exec", name, "--", "sh", "-c", "test -e ~/waits"]
    wait_for(lambda: author.berth(*check).returncode == 0, what="the check to begin")
    return process


def test_controllers_death_changes_nothing_and_an_interruption_leaves_nothing(author: User) -> None:
    process = running(author)
    second = author.berth("profile", "test", f"{NAME}@3")
    assert (second.returncode, b"is being tested just now" in second.stderr) == (5, True)
    author.site.kill("broker", "KILL")
    died_and_restarted(author.site)
    end(author, "TERM")
    said = process.communicate(timeout=DEADLINE_S)[1].decode()
    assert process.returncode == 130, said
    assert "has no new verdict" in said
    assert left(author) == []
    assert verdict(author, "3") is None


@pytest.mark.soak
def test_next_test_deletes_the_session_of_one_that_was_killed(author: User) -> None:
    process = running(author)
    end(author, "KILL")
    process.communicate(timeout=DEADLINE_S)
    (name,) = left(author)
    before = author.show(name)["id"]
    process = running(author)
    assert author.show(name)["id"] != before
    end(author, "INT")
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert left(author) == []


def test_only_the_owner_tests_and_promotes(author: User, bob: User) -> None:
    """Bob can neither read nor change alice's store, nor may he test what the site's team has published."""
    assert verdict(author, "1") is None
    assert bob.berth("profile", "promote", f"{NAME}@1", "--store", STORE).returncode != 0
    done = bob.berth("profile", "test", "base")
    assert (done.returncode, b"belongs to another user, whose test alone counts" in done.stderr) == (4, True)
    done = bob.berth("profile", "promote", "site/base", "--without-checks", "--reason", "x")
    assert done.returncode == 2  # no version
    version = json.loads(bob.ok("profile", "show", "base", "--json"))["version"]
    done = bob.berth("profile", "promote", f"base@{version}", "--without-checks", "--reason", "mine now")
    assert (done.returncode, b"cannot write to the store" in done.stderr) == (4, True)
