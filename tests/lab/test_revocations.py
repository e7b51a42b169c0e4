"""Every role, way in and cause of `tests.revocation_matrix`, with real gateways, sshd and HAProxy: all is closed."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from broker.schema.grants import Role
from tests.lab.guest_entries import MARK, OPEN, Scene, is_refused, terminal
from tests.lab.services import restart
from tests.lab.web_browser import WebBrowser
from tests.lab_cluster import wait_for
from tests.revocation_matrix import BEGINS, CAUSES, ENTRIES, SSH, entries, scenes, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

CONFIG = "/etc/berth/config.yaml"
GROUP, TRUSTED = "watchers", "trusted"
"""The group that has grants, and the one for which the site has the roles."""
LIMIT_S = 2.0
"""The promised time. benchmark `revoke` measures it; here, several labs share two processors."""
SLACK_S = 4.0
EXPIRES_S = 4
ENDS_CONTROLLER = {"role of the site", "unshare after a crash"}
"""Causes before which the controller ends. It answers the calls that wait, as they were allowed then."""


@contextlib.contextmanager
def configured(site: Site, changes: dict[str, object]) -> Iterator[None]:
    """The controller has these settings during the block."""

    def write(text: str) -> None:
        site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=text.encode())
        site.kill("broker")
        restart(site)

    before = site.lab.sh(f"cat {CONFIG}")
    write(yaml.safe_dump(yaml.safe_load(before) | changes))
    try:
        yield
    finally:
        write(before)


def rules(*but: Role) -> dict[str, object]:
    """Settings with each role for the members of TRUSTED alone, without some roles."""
    return {"sharing": {"roles": [{"role": str(r), "given_to": [f"@{TRUSTED}"]} for r in Role if r not in but]}}


@pytest.fixture(scope="module")
def scene(people: dict[str, User], site: Site) -> Iterator[Scene]:
    alice, bob, lab = people["alice"], people["bob"], site.lab
    lab.sh(f"for each in {GROUP} {TRUSTED}; do groupadd -f $each && usermod -aG $each bob; done")
    made = Scene(alice, bob, "shown", WebBrowser(lab))
    with configured(site, rules()):
        made.prepare()
        made.browser.log_in(bob)
        yield made
        alice.remove(made.name)
        for name in made.clones:
            bob.remove(name)
    lab.sh(f"groupdel {GROUP}; groupdel {TRUSTED}")


@contextlib.contextmanager
def without(scene: Scene, begin: str, end: str) -> Iterator[None]:
    """Run a command as root before the block, and another one after it."""
    lab = scene.alice.site.lab
    lab.sh(begin)
    try:
        yield
    finally:
        lab.sh(end)


@contextlib.contextmanager
def command(user: User, *words: str) -> Iterator[None]:
    user.ok(*words)
    yield


@contextlib.contextmanager
def after_crash(scene: Scene) -> Iterator[None]:
    """The next controller revokes what an earlier one has admitted."""
    scene.alice.site.kill("broker", "KILL")
    restart(scene.alice.site)
    scene.alice.ok("unshare", scene.name, "bob")
    yield


@contextlib.contextmanager
def expired(scene: Scene, role: Role) -> Iterator[None]:
    scene.share(role, "bob", "--until", f"{EXPIRES_S}s")
    until = time.monotonic() + EXPIRES_S
    wait_for(lambda: time.monotonic() >= until, what="the end of the grant")
    yield


@contextlib.contextmanager
def stopped(scene: Scene) -> Iterator[None]:
    scene.alice.ok("stop", scene.name)
    try:
        yield
    finally:
        scene.prepare()


def next_role(role: Role) -> Role:
    """Another role with which guests log in."""
    roles = list(BEGINS)
    return roles[(roles.index(role) + 1) % len(roles)]


def shared_anew(scene: Scene, role: Role) -> contextlib.AbstractContextManager[None]:
    other = next_role(role)
    words = ["--role", str(other), *(["--yes"] if other is Role.USE else [])]
    return command(scene.alice, "share", scene.name, "bob", *words)


HAPPENS: dict[str, Callable[[Scene, Role], contextlib.AbstractContextManager[None]]] = {
    "unshare": lambda scene, _: command(scene.alice, "unshare", scene.name, "bob"),
    "leave": lambda scene, _: command(scene.bob, "leave", scene.session),
    "expiry": expired,
    "group": lambda scene, _: without(scene, f"gpasswd -d bob {GROUP}", f"usermod -aG {GROUP} bob"),
    "group of the policy": lambda scene, _: without(scene, f"gpasswd -d bob {TRUSTED}", f"usermod -aG {TRUSTED} bob"),
    "account": lambda scene, _: without(
        scene, "cp -p /etc/passwd /etc/passwd.kept; sed -i /^bob:/d /etc/passwd", "mv /etc/passwd.kept /etc/passwd"
    ),
    "other role": shared_anew,
    "unshare after a crash": lambda scene, _: after_crash(scene),
    "role of the site": lambda scene, role: configured(scene.alice.site, rules(role)),
    "end of the session": lambda scene, _: stopped(scene),
}
"""The causes as they happen; the end of the block makes the next scene possible."""


def events(scene: Scene) -> list[tuple[str, str, str]]:
    found: list[dict[str, Any]] = json.loads(scene.alice.ok("events", scene.name, "--no-connections", "--json"))[
        "events"
    ]
    return [(each["actor"], each["action"], each["detail"]) for each in found]


def check_listed(scene: Scene, role: Role, ways: list[str]) -> None:
    """The owner sees the guest, with the role, in the command and at the next login."""

    def listed() -> set[tuple[str, str]]:
        found = json.loads(scene.alice.ok("who", scene.name, "--json"))
        return {(each["user"], each["role"]) for each in (*found["connections"], *found["guests"]) if each["role"]}

    if set(ways) & {*SSH, "browser"}:
        wait_for(lambda: listed() == {("bob", str(role))}, what="the guest to be listed")
    if set(ways) & set(SSH):
        login = scene.alice.laptop.ok(scene.name, "SHLVL=0 bash -il <<<exit", options=["-tt"]).decode()
        assert f"guest     bob ({role})" in login


def check_untouched(scene: Scene) -> None:
    """The session continues as it was; nothing of a guest's is left in it."""
    assert scene.alice.show(scene.name)["state"] == "ready"
    assert scene.tmux("list-windows -F '#{window_id}' | wc -l").strip() == "1"
    assert scene.alice.laptop.ssh(scene.name, f"pgrep -fx '{MARK}' || test -e ~/injected").returncode == 1


@pytest.mark.parametrize(
    ("role", "cause"),
    [
        pytest.param(role, cause, marks=[] if always else [pytest.mark.soak], id=f"{role}-{cause}")
        for role, cause, always in scenes()
    ],
)
def test_each_way_in_is_closed_by_each_cause(scene: Scene, role: Role, cause: str) -> None:
    ways, expected = entries(role, cause), CAUSES[cause]
    before = len(events(scene))
    scene.share(role, f"@{GROUP}" if cause == "group" else "bob")
    for way in ENTRIES:
        if why_not(role, way, "unshare"):
            assert is_refused(scene, way), f"{role} opens {way}"
    with contextlib.ExitStack() as opened:
        ends = [opened.enter_context(OPEN[way](scene, role, way)) for way in ways if way != "API"]
        check_listed(scene, role, ways)
        if "API" in ways:
            ends.append(opened.enter_context(OPEN["API"](scene, role, "API")))
        relays, carried = scene.relays(), len({"gateway", "browser"} & set(ways))
        assert relays >= carried
        with HAPPENS[cause](scene, role):
            began = time.monotonic()
            if expected.is_acknowledged:
                assert scene.relays() <= relays - carried, "acknowledged before all was closed"
            for ended in ends[: len(ends) - ("API" in ways)]:
                ended()
            took = time.monotonic() - began
            print(f"revocation: {role} {cause} {took:.2f} s")
            assert took <= LIMIT_S + SLACK_S
            if "API" in ways and cause not in ENDS_CONTROLLER:
                ends[-1]()
            check_refused(scene, role, cause, ways)
    check_untouched(scene)
    if set(ways) & set(SSH):
        reason = expected.reason.format(role=next_role(role))
        assert ("berth", "guest-out", f"bob: {reason}") in events(scene)[before:]
    for grantee in ("bob", f"@{GROUP}"):
        scene.alice.berth("unshare", scene.name, grantee)


def check_refused(scene: Scene, role: Role, cause: str, ways: list[str]) -> None:
    """A new attempt by each way is refused; where the role is another one now, it has that one alone."""
    if cause == "other role":
        for way in ways:
            with terminal(scene.bob, scene.session, way) as screen:
                screen.wait_for_text(BEGINS[next_role(role)].format(scene.session))
        scene.alice.ok("unshare", scene.name, "bob")
    for way in ways:
        if not (cause == "account" and way == "login node"):  # no process can begin for an account that is gone
            assert is_refused(scene, way), way
    if cause == "role of the site":
        words = ["--role", str(role), "--yes"] if role is Role.USE else ["--role", str(role)]
        if role in BEGINS:
            assert scene.alice.berth("share", scene.name, "bob", *words).returncode == 4
