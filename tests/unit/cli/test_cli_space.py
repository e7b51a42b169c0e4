"""`berth diff`, `size`, `verify`, `flatten` and `gc`, and what `show`, `list` and `start` say of what is kept."""

from __future__ import annotations

import json

import pytest

from broker.schema import sessions
from broker.schema import volumes as volume_schema
from broker.schema.sessions import Persistence, SessionState
from broker.text.volume import describe_persistence
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, ready, view

pytestmark = pytest.mark.usefixtures("dev")


def test_diff_prints_packages_and_then_files(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/diff"] = volume_schema.DiffReport(
        base="profile base@1",
        packages=[
            volume_schema.PackageChange(name="htop", after="3.3"),
            volume_schema.PackageChange(name="git", before="2.45", after="2.47"),
            volume_schema.PackageChange(name="nano", before="8.0"),
        ],
        files=[
            volume_schema.FileChange(change="A", volume="home", path="/home/alice/new\tfile"),
            volume_schema.FileChange(change="D", volume="system", path="/etc/motd"),
        ],
    )
    result = run("diff", "dev")
    assert result.stdout.splitlines() == [
        "A\thtop 3.3",
        "M\tgit 2.45 -> 2.47",
        "D\tnano 8.0",
        "A\t/home/alice/new\\tfile",
        "D\t/etc/motd",
    ]
    assert result.stderr.splitlines() == [
        "dev: 3 packages changed since profile base@1",
        "dev: 2 files changed since profile base@1",
    ]
    assert json.loads(run("diff", "dev", "--json", "--from", "3").stdout)["base"] == "profile base@1"
    assert controller.asked[-1][:2] == ("GET", "/v1/sessions/dev/diff?from")


def test_diff_that_finds_nothing_and_one_that_finds_too_much(controller: ScriptedController) -> None:
    controller.answers["GET /v1/sessions/dev/diff"] = volume_schema.DiffReport(base="snapshot 3")
    result = run("diff", "dev", "--from", "3")
    compared = "compared: type, mode, size, time, link target, attributes; `--content` also compares the content"
    assert (result.stdout, result.stderr) == ("", f"dev: no changes since snapshot 3\n{compared}\n")


def test_diff_that_read_the_files_needs_no_hint(controller: ScriptedController) -> None:
    report = volume_schema.DiffReport(base="snapshot 3", content=True)
    controller.answers["GET /v1/sessions/dev/diff"] = report
    result = run("diff", "dev", "--content")
    assert controller.asked[-1][1] == "/v1/sessions/dev/diff?content"
    assert (result.stdout, result.stderr) == ("", "dev: no changes since snapshot 3\n")
    file = volume_schema.FileChange(change="M", volume="home", path="/home/alice/x")
    controller.answers["GET /v1/sessions/dev/diff"] = volume_schema.DiffReport(base="b", files=[file], truncated=True)
    assert run("diff", "dev").stderr.splitlines()[-1] == "dev: more than 1 file changed since b"


def test_size(controller: ScriptedController) -> None:
    lines = [
        volume_schema.SizeLine(what="home", own=1024, total=4096, files=12),
        volume_schema.SizeLine(what="snapshot 1", own=0, total=3072, files=10),
    ]
    controller.answers["GET /v1/sessions/dev/size"] = volume_schema.SizeReport(lines=lines, bytes=4096, free=1 << 30)
    result = run("size", "dev")
    assert result.stdout.splitlines() == [
        "WHAT        OWN      TOTAL    FILES",
        "home        1.0 KiB  4.0 KiB  12",
        "snapshot 1  0 B      3.0 KiB  10",
    ]
    assert result.stderr == "4.0 KiB in total, shared data counted once; 1.0 GiB free\n"
    assert json.loads(run("size", "dev", "--json").stdout)["free"] == 1 << 30


def test_verify(controller: ScriptedController) -> None:
    path = "POST /v1/sessions/dev/verify"
    controller.answers[path] = volume_schema.VerifyReport(layers=1, recorded=1)
    result = run("verify", "dev")
    said = "dev: 1 layer read, no problems; recorded checksums of 1 of them\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", said)
    controller.answers[path] = volume_schema.VerifyReport(
        layers=2, recorded=0, problems=["/home/alice/x: other content"]
    )
    for words in (("verify", "dev"), ("verify", "dev", "--json")):
        result = run(*words)
        assert result.exit_code == 1
        assert "/home/alice/x: other content" in result.stdout
    assert run("verify", "dev").stderr == "dev: 2 layers read, 1 problem\n"


def test_flatten(controller: ScriptedController) -> None:
    many, few = (sessions.Volumes(driver="overlay", layers={"home": count, "system": 1}) for count in (30, 1))
    controller.script["dev"] += [view(volumes=many), view(volumes=few), view()]
    went_on = "dev: 30 under the home, 1 under the system; they are merged in the background\n"
    assert run("flatten", "dev").stderr == went_on
    assert run("flatten", "dev").stderr == "dev: 1 under the home, 1 under the system\n"
    assert json.loads(run("flatten", "dev", "--json").stdout)["name"] == "dev"
    assert run("flatten", "dev").stderr == "dev: no layers\n"


def test_gc(controller: ScriptedController) -> None:
    report = volume_schema.GcReport(layers=2, bytes=2048, sessions=["old"], dry_run=True)
    controller.answers["POST /v1/gc"] = report
    result = run("gc", "--dry-run")
    assert result.stdout == "old\n"
    assert result.stderr == "would be freed: 2.0 KiB in 2 layers, 1 deleted session\n"
    controller.answers["POST /v1/gc"] = report.model_copy(update={"dry_run": False})
    assert run("gc").stderr.startswith("freed: ")
    assert json.loads(run("gc", "--json").stdout)["layers"] == 2
    assert [body for _, path, body in controller.asked if path == "/v1/gc"] == [
        {"dry_run": True},
        {"dry_run": False},
        {"dry_run": False},
    ]


@pytest.mark.parametrize(
    ("persistence", "words"),
    [
        ({}, "everything"),
        (
            {"system": "fresh", "keep": ["/opt/cache"]},
            "home kept; everything outside comes from base@1 at each start, except /opt/cache",
        ),
        (
            {"fresh": ["~/.config/app", "/etc/foo", "/etc/bar"]},
            "home kept, except ~/.config/app, which comes from base@1 at each start; "
            "everything outside kept, except /etc/foo, /etc/bar, which come from base@1 at each start",
        ),
        (
            {"home": "fresh", "keep": ["/home/alice/src"]},
            "home comes from base@1 at each start, except /home/alice/src; everything outside kept",
        ),
        (
            {"home": "fresh", "system": "fresh"},
            "home comes from base@1 at each start; everything outside comes from base@1 at each start",
        ),
    ],
)
def test_the_policy_in_words(persistence: dict[str, object], words: str) -> None:
    assert describe_persistence(view(persistence=Persistence.model_validate(persistence))) == words


def test_show_tells_how_a_session_is_kept(controller: ScriptedController) -> None:
    volumes = sessions.Volumes(
        driver="overlay", promises=["a snapshot takes no time"], layers={"home": 3, "system": 0}, snapshots=2
    )
    controller.sessions["dev"] = view(volumes=volumes)
    out = run("show", "dev").stdout
    assert "  kept       everything\n" in out
    assert "  storage    overlay: stores only changes, as layers\n" in out
    assert "             a snapshot takes no time\n" in out
    assert "  layers     3 under the home\n" in out
    assert "  snapshots  2; `berth snapshots dev` lists them\n" in out
    stuck = volumes.model_copy(update={"unflattened": "No space left on device"})
    controller.sessions["dev"] = view(volumes=stuck)
    words = "cannot be joined: No space left on device; `berth flatten dev` tries again"
    assert f"  layers     3 under the home\n             {words}\n" in run("show", "dev").stdout
    controller.sessions["dev"] = view(volumes=sessions.Volumes(driver="novel"))
    assert "  storage    novel\n  snapshots  none\n" in run("show", "dev").stdout


def test_show_tells_what_is_done_and_what_went_wrong(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.CHANGING, operation=operation("rollback"))
    assert "  state      rolling back\n  profile" in run("show", "dev").stdout
    assert "  operation  rolling back, since " in run("show", "dev").stdout
    failure = operation("switch", "failed", message="the disk is full", hint="delete something")
    controller.sessions["dev"] = view(operation=failure)
    assert "failed and changed nothing: the disk is full; delete something\n" in run("show", "dev").stdout
    controller.sessions["dev"] = view(operation=operation("mystery"))
    assert "doing mystery" in run("show", "dev").stdout


def test_root_mode_and_changes_show_in_the_list(controller: ScriptedController) -> None:
    controller.sessions = {
        "dev": ready(root=True),
        "old": view("old", SessionState.CHANGING, operation=operation("clone")),
    }
    lines = run("list").stdout.splitlines()
    assert "c2, root mode" in lines[1]
    assert "being cloned" in lines[2]
    assert "`berth stop dev` ends it" in run("show", "dev").stdout


def test_show_of_a_deleted_session(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.DELETED, kept_until=CREATED)
    assert "`berth restore dev` restores it until " in run("show", "dev").stdout


def test_start_with_a_policy_of_its_own(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/alice")  # where the shell looks for ~
    controller.script["dev"].append(ready())
    words = ("--fresh", "system", "--keep", "/opt/cache/", "--fresh", "/people/alice/.config/app", "--fresh", "~/x")
    result = run("start", "dev", *words)
    assert result.exit_code == 0
    assert controller.asked[0][2]["persistence"] == {
        "home": "keep",
        "system": "fresh",
        "keep": ["/opt/cache"],
        "fresh": ["~/.config/app", "~/x"],
    }
    Persistence.model_validate(controller.asked[0][2]["persistence"])


@pytest.mark.parametrize(
    "words",
    [
        ("--keep", "cache"),
        ("--keep", "/opt/../etc"),
        ("--keep", "/a//b"),
        ("--keep", "/a,b"),
        ("--keep", "/"),
        ("--fresh", "~"),
        ("--keep", "home", "--fresh", "home"),
        ("--keep", "/a", "--fresh", "/a/"),
    ],
)
def test_a_policy_that_cannot_be(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run("start", "dev", *words).exit_code == 2
    assert controller.asked == []


def test_start_joins_a_session_that_is_being_changed(controller: ScriptedController) -> None:
    controller.script["dev"] += [
        view("dev", SessionState.CHANGING, operation=operation("rollback")),
        view("dev", SessionState.SUBMITTING, operation=operation("rollback", "done")),
        ready(),
    ]
    result = run("start", "dev")
    assert (result.exit_code, result.stdout) == (0, "berth ssh dev\n")
    assert "dev: rolling back" in result.stderr


def test_stop_waits_for_what_is_being_done(controller: ScriptedController) -> None:
    controller.script["dev"] += [view("dev", SessionState.CHANGING, operation=operation("switch")), view()]
    assert run("stop", "dev").stderr.splitlines() == [
        "dev: switching its profile",
        "dev is stopped; its files are kept",
    ]
