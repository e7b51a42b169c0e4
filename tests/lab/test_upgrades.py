"""A new stable version reaches sessions at their natural restarts, and no running process notices."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.dying import COMING_TRUE, dies_at_each
from tests.lab.images import PUBLISHER, SECONDS
from tests.lab.kept import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

RECIPE = """\
name: {name}
version: {version}
base: profile:base@2
files:
  - {{destination: /etc/moving, content: "version {version}\\n"}}
checks:
  - {{name: moved, command: grep -q {version} /etc/moving}}
"""
CHECK = """\
mkdir -p ~/.config/berth
printf '%s\\n' '#!/bin/sh' '{line}' >~/.config/berth/check
chmod +x ~/.config/berth/check
"""
POINTS = [
    *("upgrade.checked", "upgrade.announced", "launcher.switch-begun", *COMING_TRUE, "launcher.switch-done"),
    *("upgrade.done", "start.prepared", "start.submitted"),
]
REASON = "version 2 is too new"


class Moving:
    """A profile of the site in several versions, of which the team makes one stable after the other."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    def team(self, *words: str) -> None:
        argv = self.lab.argv(["berth", "profile", *words], user=PUBLISHER, host_network=True)
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def build(self, version: str) -> None:
        text = RECIPE.format(name=self.name, version=version)
        path = f"{self.lab.sh('echo ~carol')}/{self.name}-{version}.yaml"
        self.lab.run(["sh", "-c", f"cat >{path}"], user=PUBLISHER, stdin=text.encode())
        self.team("build", path)

    def promote(self, version: str) -> None:
        self.team("promote", f"{self.name}@{version}", "--without-checks", "--reason", "a test of the lab")

    def remove(self) -> None:
        self.lab.sh(f"rm -rf /profiles/{self.name}")


@pytest.fixture(scope="module")
def moving(lab: Lab, image: str) -> Iterator[Moving]:
    """Version 1 is stable, and version 2 is built."""
    assert image
    made = Moving(lab, "moving")
    made.remove()
    for version in ("1", "2"):
        made.build(version)
    made.promote("1")
    yield made
    made.remove()


def offer_of(user: User, name: str, version: str) -> dict[str, Any]:
    """The session's offer, once it is of that version."""

    def holds(view: dict[str, Any]) -> bool:
        return view["offer"] is not None and view["offer"]["version"] == version

    offer: dict[str, Any] = user.until(name, holds, what=f"{name} to be offered {version}", seconds=60)["offer"]
    return offer


def restarted(user: User, name: str) -> dict[str, Any]:
    user.ok("stop", name, seconds=120)
    user.ok("start", name, "--timeout", "150", seconds=200)
    return user.wait(name, "ready", seconds=150)


def test_stable_moves_and_each_session_takes_it_or_says_why_not(
    people: dict[str, User], moving: Moving, new_name: Callable[[str], str]
) -> None:
    """Alice has a file outside her home, and carol a check that fails."""
    names = {user: new_name("up") for user in people}

    def each(act: Callable[[User, str], Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(len(people)) as pool:
            done = pool.map(lambda user: act(user, names[user.name]), people.values())
            return dict(zip(people, done, strict=True))

    each(lambda user, name: user.ok("start", name, "--profile", moving.name, seconds=120))
    each(lambda user, name: user.laptop.ok(name, "echo work >file; sleep 1000 >/dev/null 2>&1 & echo $! >pid"))
    people["alice"].laptop.ok(names["alice"], "touch /opt/tool")
    people["carol"].laptop.ok(
        names["carol"], CHECK.format(line=f"grep -q 1 /etc/moving || {{ echo {REASON}; exit 3; }}")
    )
    before = each(lambda user, name: user.show(name))
    bob, name = people["bob"], names["bob"]
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(bob.laptop.ok, name, "until test -e go; do sleep 0.2; done; cat /etc/moving", seconds=120)
        moving.promote("2")
        offers = each(lambda user, name: offer_of(user, name, "2"))
        assert [offer["obstacle"] for offer in offers.values()] == [""] * len(people)
        each(lambda user, name: user.laptop.ok(name, "kill -0 $(cat pid); touch go"))
        assert stays.result() == b"version 1\n"
    after = each(lambda user, name: user.show(name))
    assert [view["generation"] for view in after.values()] == [view["generation"] for view in before.values()]
    assert f"{moving.name}@2 is taken at the next start" in bob.ok("show", name)
    assert f"{moving.name}@1, 2 next" in bob.ok("list")
    greeted = bob.laptop.ok(name, "cat /run/berth/session/remark").decode()
    assert f"notice={moving.name}@2 is taken at the next start" in greeted

    after = each(restarted)
    assert {user: view["version"] for user, view in after.items()} == {"alice": "1", "bob": "2", "carol": "1"}
    for user, view in after.items():
        assert (
            people[user].laptop.ok(names[user], "cat file /etc/moving") == f"work\nversion {view['version']}\n".encode()
        )
    assert after["alice"]["offer"]["files"] == ["/opt/tool"]
    people["alice"].laptop.ok(names["alice"], "test -e /opt/tool")
    assert "running the check moved of the profile" in bob.ok("logs", name)
    assert f"before switch to {moving.name}@2" in bob.ok("snapshots", name)
    for said in (people["carol"].ok(verb, names["carol"]) for verb in ("show", "events")):
        assert f"the check ~/.config/berth/check ended with 3: {REASON}" in said
    assert "held back" in after["carol"]["offer"]["obstacle"]
    assert len(people["carol"].every_job(after["carol"]["id"])) == 2, "it returns in the job that has tried the version"


@pytest.mark.soak
def test_controller_dies_at_each_point_of_an_upgrade(
    crashing: Site, alice: User, moving: Moving, new_name: Callable[[str], str]
) -> None:
    """No session is left without an image: it has the new one in the end, and its files."""
    name = new_name("up")
    alice.ok("start", name, "--profile", f"{moving.name}@1", seconds=120)
    alice.ok("set", name, "--follow", "2")
    alice.laptop.ok(name, "echo work >file")
    alice.ok("stop", name, seconds=120)
    dies_at_each(crashing, POINTS, lambda: alice.request(f"/v1/sessions/{name}/start", "-X", "POST", *as_json({})))
    view = alice.wait(name, "ready", seconds=150)
    assert (view["version"], view["operation"]["verb"], view["operation"]["status"]) == ("2", "upgrade", "done")
    assert alice.laptop.ok(name, "cat file /etc/moving") == b"work\nversion 2\n"
    assert len(alice.every_job(view["id"])) == 2
