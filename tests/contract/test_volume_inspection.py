"""The verbs that look into a session's volumes: diff, size and verify."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from broker.names import new_id
from broker.volumes.content import ACCESS_LISTS
from tests.volumes.access_list import access_list
from tests.volumes.act import OTHER, Actor, taken


def test_diff_tells_files_since_a_snapshot(actor: Actor, session: str, image: dict[str, Any]) -> None:
    (actor.top(session) / "gone").write_text("x")
    (actor.top(session) / "folder").mkdir()
    (actor.top(session) / "folder/same").write_text("x")
    number = taken(actor, session)
    top = actor.top(session)
    (top / "file").write_text("other")
    (top / "new").write_text("x")
    os.mknod(top / "gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=number, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("M", "file"), ("D", "gone"), ("A", "new")]
    assert told["packages"] == []


@pytest.mark.parametrize("driver", ["overlay", "reflink", "plain"])
def test_diff_is_right_with_every_driver(actor: Actor, driver: str, image: dict[str, Any]) -> None:
    session = actor.make(driver)
    for name in ("same", "file", "gone"):
        (actor.top(session) / name).write_text("x")
    os.setxattr(actor.top(session) / "same", ACCESS_LISTS[0], access_list(4))  # which copies of the verb's cannot keep
    number = taken(actor, session)
    top, system = actor.top(session), actor.top(session, "system")
    (top / "file").write_text("changed")
    (top / "new").write_text("x")
    os.mknod(top / "gone", stat.S_IFCHR) if driver == "overlay" else (top / "gone").unlink()
    (system / "etc").mkdir()
    (system / "etc/motd").write_text("changed")
    (system / "etc/made").write_text("x")
    os.mknod(system / "etc/gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=number, **image)
    assert [(each["change"], each["volume"], each["path"]) for each in told["files"]] == [
        ("M", "home", "file"),
        ("D", "home", "gone"),
        ("A", "home", "new"),
        ("D", "system", "etc/gone"),
        ("A", "system", "etc/made"),
        ("M", "system", "etc/motd"),
    ]
    over_profile = actor("diff", session=session, snapshot=None, **image)["files"]
    assert {each["path"] for each in over_profile if each["volume"] == "home"} >= {"same", "file", "new"}


def test_diff_tells_what_shows_again_of_the_image(actor: Actor, session: str, image: dict[str, Any]) -> None:
    etc = actor.top(session, "system") / "etc"
    etc.mkdir()
    (etc / "motd").write_text("changed")
    (etc / "made").write_text("x")
    os.mknod(etc / "gone", stat.S_IFCHR)
    number = taken(actor, session)
    actor("switch", session=session, operation=new_id(), to=OTHER)
    told = actor("diff", session=session, snapshot=number, **image)["files"]
    assert [(each["change"], each["path"]) for each in told] == [
        ("A", "etc/gone"),
        ("D", "etc/made"),
        ("M", "etc/motd"),
    ]


def test_diff_between_two_states_of_what_the_image_has(actor: Actor, session: str, image: dict[str, Any]) -> None:
    """A file that was gone or changed in the former snapshot is no change; a file that the image shows again is one."""
    system = actor.top(session, "system")
    (system / "etc").mkdir()
    os.mknod(system / "etc/gone", stat.S_IFCHR)
    first = taken(actor, session)
    (actor.top(session, "system") / "etc").mkdir()
    (actor.top(session, "system") / "etc/motd").write_text("changed")
    second = taken(actor, session)
    told = actor("diff", session=session, snapshot=second, **image)
    assert told["files"] == []
    again = actor.top(session, "system")
    again.joinpath("etc").mkdir()
    os.mknod(again / "etc/gone", stat.S_IFCHR)
    told = actor("diff", session=session, snapshot=first, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("M", "etc/motd")]
    actor("switch", session=session, operation=new_id(), to=OTHER, fresh=True)
    told = actor("diff", session=session, snapshot=second, **image)
    assert [(each["change"], each["path"]) for each in told["files"]] == [("A", "etc/gone"), ("M", "etc/motd")]


def test_diff_tells_packages(actor: Actor, session: str, image: dict[str, Any]) -> None:
    number = taken(actor, session)
    status = actor.top(session, "system") / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: bash\nStatus: install ok installed\nVersion: 6\nDescription: x\n y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: new\nStatus: install ok installed\nVersion: 1:2-3\n"
    )
    info = actor.top(session, "system") / "opt/venv/lib/python3.14/site-packages/My_Tool-1.2.dist-info"
    info.mkdir(parents=True)
    base = "apt bash:amd64 5\napt gone 1\npip other==2\n"
    told = actor("diff", session=session, snapshot=number, base_packages=base, **image)
    assert told["packages"] == [
        {"name": "bash", "before": "5", "after": "6"},
        {"name": "gone", "before": "1", "after": ""},
        {"name": "new", "before": "", "after": "1:2-3"},
        {"name": "pip my-tool", "before": "", "after": "1.2"},
    ]


def test_size_counts_shared_layers_once(actor: Actor, session: str) -> None:
    (actor.top(session) / "big").write_bytes(bytes(100_000))
    number = taken(actor, session)
    (actor.top(session) / "more").write_bytes(bytes(50_000))
    told = actor("size", session=session)
    lines = {line["what"]: line for line in told["lines"]}
    assert lines["home"]["total"] >= 150_000
    assert 50_000 <= lines["home"]["own"] < 100_000
    assert lines[f"snapshot {number}"]["own"] == 0  # the home needs it too
    assert 150_000 <= told["bytes"] < 250_000
    assert told["free"] > 0


def test_verify_notices_any_change_of_an_immutable_layer(actor: Actor, session: str) -> None:
    (actor.top(session) / "other").write_text("stays")
    taken(actor, session)
    layer = actor.root / "layers" / actor.record(session).home.layers[0] / "tree"
    assert actor("verify", session=session) == {"layers": 1, "recorded": 1, "problems": []}
    assert actor("verify", session=session) == {"layers": 1, "recorded": 0, "problems": []}
    when = (layer / "file").stat().st_mtime_ns
    (layer / "file").write_text("f1rst")
    os.utime(layer / "file", ns=(when, when))
    (layer / "added").write_text("x")
    (layer / "other").unlink()
    problems = actor("verify", session=session)["problems"]
    assert [problem.partition(": ")[2] for problem in problems] == [
        "other: is missing",
        "added: is new",
        "file: has changed",
    ]
